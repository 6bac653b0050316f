"""BF16 pairs against rounding in NumPy, over layouts and odd sizes."""

import numpy as np
import pytest
from dlrmjit_kernels.matrix.axes import view_of
from dlrmjit_kernels.matrix.bf16_convert import can_round, round_to_pairs
from dlrmjit_kernels.matrix.matrix import Layout, Matrix
from dlrmjit_kernels.runtime.target import current_target
from hypothesis import given
from hypothesis import strategies as st

from tests.bf16 import rounded
from tests.kernels.layers.test_fully_connected import filled, random_array

pytestmark = pytest.mark.skipif(
    not current_target().bf16, reason="this processor does not multiply BF16"
)

sizes = st.sampled_from([1, 2, 7, 13, 16, 17, 31, 32, 33, 100, 479])
nr = current_target().nr


def pairs_of(matrix: Matrix, down: bool) -> np.ndarray:
    rows, cols = matrix.rows, matrix.cols
    shape = (-(-rows // 2), cols) if down else (rows, -(-cols // 2))
    pairs = Matrix.empty(Layout.blocked(*shape, 24, nr))
    pairs.data.view(np.uint32)[:] = 0xFFFFFFFF
    round_to_pairs(
        view_of(matrix.layout), matrix.address, view_of(pairs.layout), pairs.address, down
    )
    return pairs.to_numpy().view(np.uint32)


@given(sizes, sizes, st.sampled_from(["blocked", "plain", "strided", "panels"]), st.booleans())
def test_pairs_are_rounded_to_even(rows, cols, kind, down):
    array = random_array(1, rows, cols)
    pad = ((0, rows % 2), (0, 0)) if down else ((0, 0), (0, cols % 2))
    bits = np.pad(rounded(array), pad).view(np.uint32)
    first, second = (bits[::2], bits[1::2]) if down else (bits[:, ::2], bits[:, 1::2])
    found = pairs_of(filled(kind, array), down)
    np.testing.assert_array_equal(found, first >> np.uint32(16) | second)


@pytest.mark.parametrize(
    "value", [1 + 2**-8, 1 + 3 * 2**-8, 3.39e38, np.inf, -0.0, 1 + 2**-8 + 2**-20]
)
def test_ties_go_to_even_and_the_largest_to_infinity(value):
    array = np.full((1, 2), value, np.float32)
    found = pairs_of(Matrix.view(array), False)[0, 0]
    wanted = rounded(array).view(np.uint32)[0, 0]
    assert found == wanted >> 16 | wanted


def test_nan_stays_nan():
    pair = pairs_of(Matrix.view(np.full((1, 2), np.nan, np.float32)), False)
    assert np.isnan((pair & np.uint32(0xFFFF0000)).view(np.float32)).all()


def test_blocks_that_cut_vectors_or_pairs_are_refused():
    target = current_target()
    short_blocks = view_of(Layout.blocked(64, 100, 32, target.lanes + 1))
    odd_rows = view_of(Layout.blocked(64, 100, 5, nr))
    assert not can_round(short_blocks, False, target)
    assert not can_round(odd_rows, True, target)
    assert can_round(odd_rows, False, target)
    assert not can_round(view_of(Layout.plain(9, 9)).transposed, False, target)
