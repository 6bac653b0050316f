"""Copies a matrix from one layout into another: packing, unpacking and transposing in one pass.

Both layouts are walked in the largest rectangles that are evenly spaced on either side, in
parallel over such rectangles of the target.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.matrix.axes import Axis, View, common_tile
from dlrmjit_kernels.microkernels.copy_rows import CopyRows
from dlrmjit_kernels.microkernels.transpose import Transpose
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS, run_tasks
from dlrmjit_kernels.runtime.target import current_target
from dlrmjit_kernels.runtime.threads import get_threads

_AXIS = ("block", "block_stride", "step")
PLAN = np.dtype(
    [
        (name, np.int64)
        for name in ("rows", "cols", "tile_rows", "tile_cols", "lanes", "kernel", "copy")
    ]
    + [
        (f"{side}_{axis}_{name}", np.int64)
        for side in ("source", "target")
        for axis in ("row", "col")
        for name in _AXIS
    ]
)
_LONGEST = 256
Numbers = Any  # a PLAN, or an array of one
BoundRelayout = Callable[[int, int], object]
"""A compiled copy between two layouts, given the addresses of source and target."""


def relayout(source: View, source_address: int, target: View, target_address: int) -> None:
    """Copy every element of ``source`` to the same row and column of ``target``.

    Columns, or rows, of ``target`` must be adjacent in memory within a block.
    """
    bind_relayout(source, target)(source_address, target_address)


def bind_relayout(source: View, target: View) -> BoundRelayout:
    """The compiled copy from one layout to another, which takes both addresses."""
    if target.cols.step != 1:
        source, target = source.transposed, target.transposed
    small = target.rows.extent * target.cols.extent < PARALLEL_MIN_ELEMENTS
    plan = _plan(source, target, current_target().lanes)
    return partial(_copy, small or get_threads() == 1, plan)


@functools.lru_cache(maxsize=4096)
def _plan(source: View, target: View, lanes: int) -> NDArray[np.void]:
    numbers = np.zeros(1, dtype=PLAN)
    n = numbers[0]
    n["rows"], n["cols"], n["lanes"] = target.rows.extent, target.cols.extent, lanes
    n["tile_rows"] = _tile(source.rows, target.rows)
    n["tile_cols"] = _tile(source.cols, target.cols)
    n["kernel"] = engine.address(Transpose(), current_target())
    n["copy"] = engine.address(CopyRows(2 * lanes), current_target())
    for side, view in (("source", source), ("target", target)):
        for name, axis in (("row", view.rows), ("col", view.cols)):
            n[f"{side}_{name}_block"] = axis.block
            n[f"{side}_{name}_block_stride"] = axis.block_stride
            n[f"{side}_{name}_step"] = axis.step
    return numbers


def _tile(source: Axis, target: Axis) -> int:
    """Elements handled at a time: no block border of either side lies within."""
    return common_tile((source, target), min(_LONGEST, target.extent))


@jit
def _copy(alone: bool, plan: Numbers, source: int, target: int) -> None:
    run_tasks(_copy_tile, _tiles(plan[0]), (plan, source, target), alone)


@jit
def _tiles(p: Numbers) -> int:
    down, across = p.rows + p.tile_rows - 1, p.cols + p.tile_cols - 1
    tiles: int = down // p.tile_rows * (across // p.tile_cols)
    return tiles


@task_jit
def _copy_tile(tile: int, plan: Numbers, source: int, target: int) -> None:
    p = plan[0]
    across = ceil_div(p.cols, p.tile_cols)
    row, col = tile // across * p.tile_rows, tile % across * p.tile_cols
    height, width = min(p.tile_rows, p.rows - row), min(p.tile_cols, p.cols - col)
    a = source + 4 * _source_offset(p, row, col)
    b = target + 4 * _target_offset(p, row, col)
    if p.source_col_step == 1:
        _copy_rows(p, a, b, height, width)
    else:
        _transpose(p, a, b, height, width)


@jit
def _offset(index: int, block: int, block_stride: int, step: int) -> int:
    return index // block * block_stride + index % block * step


@jit
def _source_offset(p: Numbers, row: int, col: int) -> int:
    down = _offset(row, p.source_row_block, p.source_row_block_stride, p.source_row_step)
    return down + _offset(col, p.source_col_block, p.source_col_block_stride, p.source_col_step)


@jit
def _target_offset(p: Numbers, row: int, col: int) -> int:
    down = _offset(row, p.target_row_block, p.target_row_block_stride, p.target_row_step)
    return down + _offset(col, p.target_col_block, p.target_col_block_stride, 1)


@jit
def _copy_rows(p: Numbers, source: int, target: int, rows: int, cols: int) -> None:
    width = 2 * p.lanes
    whole = cols // width * width
    for c in range(0, whole, width):
        at = (source + 4 * c, target + 4 * c, rows, p.source_row_step, p.target_row_step)
        unsafe.call(p.copy, at)
    for r in range(rows if whole < cols else 0):
        a = source + 4 * r * p.source_row_step
        b = target + 4 * r * p.target_row_step
        for c in range(whole, cols):
            unsafe.store(b + 4 * c, unsafe.load(a + 4 * c))


@jit
def _transpose(p: Numbers, source: int, target: int, rows: int, cols: int) -> None:
    """Squares of a vector by a vector where rows of the source are adjacent; else one by one."""
    lanes = p.lanes if p.source_row_step == 1 else max(rows, cols) + 1
    whole_rows, whole_cols = rows // lanes * lanes, cols // lanes * lanes
    for r in range(0, whole_rows, lanes):
        for c in range(0, whole_cols, lanes):
            a = source + 4 * (r + c * p.source_col_step)
            b = target + 4 * (r * p.target_row_step + c)
            unsafe.call(p.kernel, (a, b, p.source_col_step, p.target_row_step))
    for r in range(rows):
        for c in range(0 if r >= whole_rows else whole_cols, cols):
            a = source + 4 * (r * p.source_row_step + c * p.source_col_step)
            unsafe.store(target + 4 * (r * p.target_row_step + c), unsafe.load(a))
