"""Access to the rows of a blocked matrix in compiled loops, as runs of adjacent elements.

A matrix is passed as its flat data and :func:`strides_of` its layout, so one compiled kernel
serves every matrix, row-major or blocked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.matrix.matrix import Layout
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit

F32 = NDArray[np.float32]


Strides = tuple[int, int, int, int, int]
"""Block rows, block columns, strides of blocks down and across, stride of rows, in elements.

A plain tuple, because Numba takes three times as long to accept a named one from Python.
"""


def strides_of(layout: Layout) -> Strides:
    """Return the sizes and strides of a layout."""
    return (
        layout.block_rows,
        layout.block_cols,
        layout.block_row_stride,
        layout.block_col_stride,
        layout.row_stride,
    )


@jit
def row_start(strides: Strides, row: int) -> int:
    """Return the offset of element (row, 0)."""
    block_rows, _, block_stride, _, row_stride = strides
    block, within = divmod(row, block_rows)
    return block * block_stride + within * row_stride


@jit
def run_length(strides: Strides, column: int, count: int) -> int:
    """Return how many of ``count`` elements from ``column`` on are adjacent in memory."""
    _, block_cols, _, _, _ = strides
    return min(count, block_cols - column % block_cols)


@jit
def position(strides: Strides, row: int, column: int) -> int:
    """Return the offset of element (row, column)."""
    return run_start(strides, row_start(strides, row), column)


@jit
def run_start(strides: Strides, start: int, column: int) -> int:
    """Return the offset of a column of the row that starts at ``start``."""
    _, block_cols, _, block_stride, _ = strides
    block, within = divmod(column, block_cols)
    return start + block * block_stride + within


@jit
def store_row(data: F32, start: int, strides: Strides, cols: int, source: F32, begin: int) -> None:
    """Copy ``source[begin : begin + cols]`` into the row at ``start``."""
    _, block_cols, _, block_stride, _ = strides
    for column in range(0, cols, block_cols):
        count = min(block_cols, cols - column)
        unsafe.copy(data[start:].ctypes.data, source[begin + column :].ctypes.data, count)
        start += block_stride


@jit
def load_row(data: F32, start: int, strides: Strides, cols: int, target: F32, begin: int) -> None:
    """Copy the row at ``start`` into ``target[begin : begin + cols]``."""
    _, block_cols, _, block_stride, _ = strides
    for column in range(0, cols, block_cols):
        count = min(block_cols, cols - column)
        unsafe.copy(target[begin + column :].ctypes.data, data[start:].ctypes.data, count)
        start += block_stride
