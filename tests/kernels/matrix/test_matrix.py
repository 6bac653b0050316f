"""Matrices against the definition of a layout, element by element."""

import numpy as np
import pytest
from dlrmjit_kernels.matrix.matrix import Layout, Matrix, layout_of
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import ShapeError

sizes = st.sampled_from([1, 2, 13, 31, 32, 33, 100])
blocks = st.sampled_from([1, 3, 16, 32, 48])


def counted(rows: int, cols: int) -> np.ndarray:
    return np.arange(rows * cols, dtype=np.float32).reshape(rows, cols)


def position(at: Layout, r: int, c: int) -> int:
    return (
        (r // at.block_rows) * at.block_row_stride
        + (c // at.block_cols) * at.block_col_stride
        + (r % at.block_rows) * at.row_stride
        + c % at.block_cols
    )


@given(sizes, sizes, blocks, blocks)
def test_blocked_elements_are_stored_where_the_layout_says(rows, cols, block_rows, block_cols):
    matrix = Matrix.empty(Layout.blocked(rows, cols, block_rows, block_cols))
    values = counted(rows, cols)
    matrix.assign(values)
    for r, c in [(0, 0), (rows - 1, cols - 1), (rows // 2, cols // 3)]:
        assert matrix.data[position(matrix.layout, r, c)] == values[r, c]
    np.testing.assert_array_equal(matrix.to_numpy(), values)


@given(sizes, sizes, blocks)
def test_rows_of_a_panel_are_contiguous(rows, cols, block_cols):
    matrix = Matrix.empty(Layout.panels(rows, cols, block_cols)).assign(counted(rows, cols))
    assert matrix.layout.span == rows * block_cols * -(-cols // block_cols)
    first = matrix.data[: rows * block_cols].reshape(rows, block_cols)
    width = min(cols, block_cols)
    np.testing.assert_array_equal(first[:, :width], counted(rows, cols)[:, :width])


def test_a_view_shares_memory_and_has_the_leading_dimension():
    features = np.zeros((5, 3, 8), dtype=np.float32)
    view = Matrix.view(features[:, 0, :])
    view.assign(np.ones((5, 8)))
    assert view.layout.row_stride == 24
    assert features[:, 0].sum() == 40
    assert features[:, 1:].sum() == 0


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1)])
def test_empty_and_single_matrices_round_trip(shape):
    assert Matrix.empty_blocked(*shape).assign(np.ones(shape)).to_numpy().shape == shape
    assert Matrix.view(np.ones(shape, dtype=np.float32)).to_numpy().shape == shape


def test_a_view_of_an_unsupported_array_is_refused():
    for array in (np.zeros((4, 4)), np.zeros((4, 4), np.float32).T, np.zeros(4, np.float32)):
        with pytest.raises(ShapeError, match="rows are contiguous"):
            Matrix.view(array)


def test_assign_names_both_shapes():
    with pytest.raises(ShapeError, match=r"\(2, 3\).*3 x 2"):
        Matrix.empty_blocked(3, 2).assign(np.zeros((2, 3)))


def test_a_short_buffer_is_refused():
    with pytest.raises(ShapeError, match="12 elements"):
        Matrix(np.zeros(11, np.float32), Layout.plain(3, 4))


def test_buffers_are_aligned_to_cache_lines():
    assert Matrix.empty_blocked(100, 100).address % 64 == 0
    assert Matrix.empty_panels(1000, 1000).address % 64 == 0


def test_arrays_of_another_dtype_have_no_layout():
    array = np.zeros((3, 5), np.float32)
    assert layout_of(array) == Layout.plain(3, 5)
    with pytest.raises(ShapeError, match="float64 of shape"):
        layout_of(np.zeros((3, 5)))
    with pytest.raises(ShapeError, match="int32"):
        layout_of(array.view(np.int32))
