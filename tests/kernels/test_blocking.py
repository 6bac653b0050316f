"""The rule that proposes blockings, and the limits every blocking is held to."""

import pytest
from dlrmjit_kernels.blocking import Blocking, Shape, check_blocking, choose_blocking
from dlrmjit_kernels.plan import grid
from dlrmjit_kernels.target import named_target
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import BlockingError

extents = st.integers(1, 10_000)
isas = st.sampled_from(["avx512_bf16", "avx512", "avx2", "sse", "neon"])


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
def test_the_grid_uses_all_threads_and_never_more(row_blocks, panels, threads):
    down, across = grid(row_blocks, panels, threads)
    assert down * across == threads


def test_the_grid_divides_evenly_where_it_can():
    assert grid(43, 16, 2) == (1, 2)
    assert grid(44, 16, 2) == (2, 1)
    assert grid(1, 16, 4) == (1, 4)
