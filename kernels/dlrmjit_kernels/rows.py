"""Rows of a matrix in blocks, as runs of adjacent elements: what row-wise kernels walk over.

Compiled helpers take a matrix as its flat data and :func:`strides_of` its layout, so one
compiled kernel serves every matrix, plain or blocked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.compile import jit
from dlrmjit_kernels.matrix import Layout

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
    return (row // strides[0]) * strides[2] + (row % strides[0]) * strides[4]


@jit
def run_length(strides: Strides, column: int, count: int) -> int:
    """How many of ``count`` elements from ``column`` on are adjacent in memory."""
    return min(count, strides[1] - column % strides[1])


@jit
def column_offset(strides: Strides, column: int) -> int:
    """Distance of a column from the start of its row."""
    return (column // strides[1]) * strides[3] + column % strides[1]


@jit
def store_columns(
    data: F32, start: int, strides: Strides, column: int, source: F32, count: int
) -> None:
    """Copy ``source[:count]`` into columns ``column`` and on of the row at ``start``."""
    done = 0
    while done < count:
        run = run_length(strides, column + done, count - done)
        at = start + column_offset(strides, column + done)
        for k in range(run):
            data[at + k] = source[done + k]
        done += run


@jit
def load_columns(
    data: F32, start: int, strides: Strides, column: int, target: F32, count: int
) -> None:
    """Copy columns ``column`` and on of the row at ``start`` into ``target[:count]``."""
    done = 0
    while done < count:
        run = run_length(strides, column + done, count - done)
        at = start + column_offset(strides, column + done)
        for k in range(run):
            target[done + k] = data[at + k]
        done += run
