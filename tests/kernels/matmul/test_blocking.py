"""The rule that proposes blockings, and the limits of every blocking."""

import pytest
from dlrmjit_kernels.matmul.blocking import Blocking, Shape, check_blocking, choose_blocking
from dlrmjit_kernels.matmul.plan import grid
from dlrmjit_kernels.runtime.target import named_target
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import BlockingError

extents = st.integers(1, 10_000)
isas = st.sampled_from(["amx_bf16", "avx512_bf16", "avx512", "avx2", "sse", "neon"])


@given(isas, extents, extents, st.integers(0, 100_000))
def test_every_proposal_is_legal(isa, rows, cols, length):
    target = named_target(isa)
    check_blocking(choose_blocking(target, Shape(rows, cols, length)), target)


@pytest.mark.parametrize(
    ("blocking", "limit"),
    [
        (Blocking(15, 32, 256, 256), "vector registers"),
        (Blocking(0, 32, 256, 256), "vector registers"),
        (Blocking(12, 32, 10_000, 12), "a panel of B"),
        (Blocking(12, 32, 1024, 4096), "a block of A"),
        (Blocking(12, 16, 256, 256), "nr is the width"),
    ],
)
def test_a_broken_limit_is_named(blocking, limit):
    with pytest.raises(BlockingError, match=limit):
        check_blocking(blocking, named_target("avx512"))


@given(extents, extents, st.integers(1, 64))
def test_the_grid_uses_all_threads_and_never_more(rows, cols, threads):
    down, across = grid((rows, 48), (cols, 16), threads)
    assert down * across == threads


def test_the_grid_divides_evenly_where_it_can():
    assert grid((43, 1), (16, 1), 2) == (1, 2)
    assert grid((44, 1), (16, 1), 2) == (2, 1)
    assert grid((1, 1), (16, 1), 4) == (1, 4)


def test_the_grid_considers_that_last_blocks_are_smaller():
    assert grid((2048, 48), (112, 32), 2) == (2, 1)  # four panels, but 64 and 48 columns
    assert grid((100, 32), (1024, 32), 2) == (1, 2)  # four blocks, but 64 and 36 rows


def test_a_grid_may_be_a_little_uneven_to_cut_the_rows():
    assert grid((2048, 48), (256, 32), 2) == (1, 2)

    assert grid((2048, 48), (256, 32), 2, slack=0.05) == (2, 1)


def test_equally_balanced_grids_cut_rows_or_columns_as_asked():
    assert grid((256, 1), (512, 32), 2) == (2, 1)
    assert grid((256, 1), (512, 32), 2, by_cols=True) == (1, 2)
    three_panels = (96, 32)  # which two threads cannot share equally
    assert grid((256, 1), three_panels, 2, by_cols=True) == (2, 1)
