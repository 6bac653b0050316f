"""gemm against float64 over sizes, transposes, leading dimensions and beta."""

import numpy as np
import pytest
from dlrmjit_kernels.matmul.gemm import gemm
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import ShapeError
from tests.tolerance import tolerance

sizes = st.sampled_from([1, 2, 5, 13, 16, 17, 31, 33, 47, 100, 131])
gaps = st.sampled_from([0, 3])


def padded(seed: int, rows: int, cols: int, gap: int) -> np.ndarray:
    full = np.random.default_rng(seed).standard_normal((rows, cols + gap)).astype(np.float32)
    full[:, cols:] = np.nan
    return full[:, :cols]


@given(sizes, sizes, sizes, gaps, gaps, st.booleans(), st.booleans(), st.booleans())
def test_gemm(m, n, k, gap, out_gap, trans_a, trans_b, accumulate):
    a = padded(1, k, m, gap) if trans_a else padded(1, m, k, gap)
    b = padded(2, n, k, gap) if trans_b else padded(2, k, n, gap)
    out = padded(3, m, n, out_gap)
    if not accumulate:
        out[:] = np.nan
    before = out.astype(np.float64) if accumulate else np.zeros((m, n))
    left, right = (a.T if trans_a else a), (b.T if trans_b else b)
    left, right = left.astype(np.float64), right.astype(np.float64)
    result = gemm(a, b, out, trans_a=trans_a, trans_b=trans_b, accumulate=accumulate)
    assert result is out
    bound = tolerance(k + 1) * (np.abs(left) @ np.abs(right) + np.abs(before))
    assert np.all(np.abs(out - (left @ right + before)) <= bound)


@pytest.mark.parametrize(("trans_a", "trans_b"), [(False, False), (True, False), (False, True)])
def test_rows_that_are_pages_apart(trans_a, trans_b):
    a = padded(1, 300, 300, 1024 - 300)
    b = padded(2, 300, 300, 2048 - 300)
    left, right = (a.T if trans_a else a), (b.T if trans_b else b)
    result = gemm(a, b, trans_a=trans_a, trans_b=trans_b)
    bound = tolerance(300) * (np.abs(left) @ np.abs(right))
    assert np.all(np.abs(result - left.astype(np.float64) @ right.astype(np.float64)) <= bound)


def test_an_empty_reduction_gives_zeros():
    out = np.full((3, 4), np.nan, np.float32)
    assert np.all(gemm(np.empty((3, 0), np.float32), np.empty((0, 4), np.float32), out) == 0)


def test_shapes_that_do_not_match_are_named():
    a, b = np.zeros((2, 3), np.float32), np.zeros((4, 5), np.float32)
    with pytest.raises(ShapeError, match="2 x 3 and 4 x 5: the first has 3 columns, the second 4"):
        gemm(a, b)
    with pytest.raises(ShapeError, match="2 x 3 and 3 x 2 gives 2 x 2, but out is 4 x 5"):
        gemm(a, a, b, trans_b=True)
    with pytest.raises(ShapeError, match="out was not given"):
        gemm(a, b, accumulate=True)
    with pytest.raises(ShapeError, match=r"2-D float32 array .* not float32 of shape \(3,\)"):
        gemm(np.zeros(3, np.float32), b)
    square = np.zeros((4, 4), np.float32)
    with pytest.raises(ShapeError, match="must not overlap a"):
        gemm(square, square[:, :], square)
