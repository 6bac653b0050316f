"""Rows of a matrix in blocks, as runs of adjacent elements: what row-wise kernels walk over.

Compiled helpers take a matrix as its flat data and :func:`strides_of` its layout, so one
compiled kernel serves every matrix, plain or blocked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.matrix.matrix import Layout
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit

F32 = NDArray[np.float32]
Strides = tuple[int, int, int, int, int]


def strides_of(layout: Layout) -> Strides:
    """What a kernel needs of a layout: block rows and columns, their strides, the row stride."""
    return (
        layout.block_rows,
        layout.block_cols,
        layout.block_row_stride,
        layout.block_col_stride,
        layout.row_stride,
    )


@jit
def row_start(strides: Strides, row: int) -> int:
    """Position of element (row, 0)."""
    block, within = divmod(row, strides[0])
    return block * strides[2] + within * strides[4]


@jit
def run_length(strides: Strides, column: int, count: int) -> int:
    """How many of ``count`` elements from ``column`` on are adjacent in memory."""
    return min(count, strides[1] - column % strides[1])


@jit
def position(strides: Strides, row: int, column: int) -> int:
    """Position of element (row, column)."""
    return run_start(strides, row_start(strides, row), column)


@jit
def run_start(strides: Strides, start: int, column: int) -> int:
    """Position of a column in the row that starts at ``start``."""
    block, within = divmod(column, strides[1])
    return start + block * strides[3] + within


@jit
def store_row(data: F32, start: int, strides: Strides, cols: int, source: F32, begin: int) -> None:
    """Copy ``source[begin : begin + cols]`` into the row at ``start``."""
    for column in range(0, cols, strides[1]):
        count = min(strides[1], cols - column)
        unsafe.copy(data[start:].ctypes.data, source[begin + column :].ctypes.data, count)
        start += strides[3]


@jit
def load_row(data: F32, start: int, strides: Strides, cols: int, target: F32, begin: int) -> None:
    """Copy the row at ``start`` into ``target[begin : begin + cols]``."""
    for column in range(0, cols, strides[1]):
        count = min(strides[1], cols - column)
        unsafe.copy(target[begin + column :].ctypes.data, data[start:].ctypes.data, count)
        start += strides[3]
