"""Rows of a matrix in blocks, as runs of adjacent elements: what row-wise kernels walk over.

Compiled helpers take a matrix as its flat data and :func:`strides_of` its layout, so one
compiled kernel serves every matrix, plain or blocked.
"""

from __future__ import annotations

from dlrmjit_kernels.compile import jit
from dlrmjit_kernels.matrix import Layout

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
def row_start(strides, row):  # type: ignore[no-untyped-def]
    """Position of element (row, 0)."""
    return (row // strides[0]) * strides[2] + (row % strides[0]) * strides[4]


@jit
def run_length(strides, column, count):  # type: ignore[no-untyped-def]
    """How many of ``count`` elements from ``column`` on are adjacent in memory."""
    return min(count, strides[1] - column % strides[1])


@jit
def column_offset(strides, column):  # type: ignore[no-untyped-def]
    """Distance of a column from the start of its row."""
    return (column // strides[1]) * strides[3] + column % strides[1]


@jit
def store_columns(data, start, strides, column, source, count):  # type: ignore[no-untyped-def]
    """Copy ``source[:count]`` into columns ``column`` and on of the row at ``start``."""
    done = 0
    while done < count:
        run = run_length(strides, column + done, count - done)
        at = start + column_offset(strides, column + done)
        for k in range(run):
            data[at + k] = source[done + k]
        done += run


@jit
def load_columns(data, start, strides, column, target, count):  # type: ignore[no-untyped-def]
    """Copy columns ``column`` and on of the row at ``start`` into ``target[:count]``."""
    done = 0
    while done < count:
        run = run_length(strides, column + done, count - done)
        at = start + column_offset(strides, column + done)
        for k in range(run):
            target[done + k] = data[at + k]
        done += run
