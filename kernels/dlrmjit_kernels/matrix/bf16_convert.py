"""Rounds float32 matrices to words of two BF16 numbers: what the tile multiplies.

Pairs are neighbours along the reduction: in a row where that runs along the columns, in a column
where it runs down the rows. An odd one out is paired with zero.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.matrix.axes import Axis, View
from dlrmjit_kernels.microkernels.round_bf16 import RoundBf16
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS, run_tasks
from dlrmjit_kernels.runtime.target import Target, current_target
from dlrmjit_kernels.runtime.threads import get_threads

_SIZES = ("rows", "cols", "lanes", "down", "tile_rows", "vectors", "kernel")
_AXIS = ("block", "block_stride", "step")
PLAN = np.dtype(
    [(name, np.int64) for name in _SIZES]
    + [
        (f"{side}_{axis}_{name}", np.int64)
        for side in ("source", "target")
        for axis in ("row", "col")
        for name in _AXIS
    ]
)
_LONGEST = 64
Numbers = Any  # a PLAN, or an array of one


def can_round(source: View, down: bool, target: Target) -> bool:
    """Whether :func:`round_to_pairs` can read a matrix, whose blocks must not cut vectors or pairs.

    Only processors that multiply BF16 numbers round to them here.
    """
    cols, rows = source.cols, source.rows
    adjacent = cols.step == 1 or cols.extent == 1
    whole_vectors = cols.uniform or cols.block % target.lanes == 0
    fits = adjacent and whole_vectors
    return target.bf16 and fits and (not down or rows.uniform or rows.block % 2 == 0)


def round_to_pairs(
    source: View, source_address: int, words: View, address: int, down: bool
) -> None:
    """Write the words of ``source`` (rows, cols): ``words`` is (rows, ceil(cols / 2)).

    With ``down`` it is (ceil(rows / 2), cols). Its columns must be adjacent in blocks of whole
    vectors, and ``source`` one that :func:`can_round`.
    """
    plan = _plan(source, words, down, current_target())
    _round(plan, source_address, address, _alone(source))


def _alone(source: View) -> bool:
    return source.rows.extent * source.cols.extent < PARALLEL_MIN_ELEMENTS or get_threads() == 1


@functools.lru_cache(maxsize=4096)
def _plan(source: View, words: View, down: bool, target: Target) -> NDArray[np.void]:
    numbers = np.zeros(1, dtype=PLAN)
    n = numbers[0]
    n["rows"], n["cols"] = source.rows.extent, source.cols.extent
    n["lanes"], n["down"] = target.lanes, down
    n["tile_rows"] = _tile_rows(source.rows, words.rows, 1 + down)
    n["vectors"] = ceil_div(words.cols.extent, target.lanes)
    n["kernel"] = engine.address(RoundBf16(interleave=down), target)
    for side, view in (("source", source), ("target", words)):
        for name, axis in (("row", view.rows), ("col", view.cols)):
            n[f"{side}_{name}_block"] = axis.block
            n[f"{side}_{name}_block_stride"] = axis.block_stride
            n[f"{side}_{name}_step"] = axis.step
    return numbers


def _tile_rows(source: Axis, words: Axis, of_source: int) -> int:
    """Rows of words done at a time: evenly spaced on either side."""
    fixed = [source.block // of_source] * (not source.uniform) + [words.block] * (not words.uniform)
    return int(np.gcd.reduce(fixed)) if fixed else max(1, min(_LONGEST, words.extent))


@jit
def _round(plan: Numbers, source: int, target: int, alone: bool) -> None:
    run_tasks(_round_tile, _tiles(plan[0]), (plan, source, target), alone)


@jit
def _word_rows(p: Numbers) -> int:
    rows: int = (p.rows + 1) // 2 if p.down else p.rows
    return rows


@jit
def _tiles(p: Numbers) -> int:
    tiles: int = ceil_div(_word_rows(p), p.tile_rows) * p.vectors
    return tiles


@task_jit
def _round_tile(tile: int, plan: Numbers, source: int, target: int) -> None:
    """One vector of words in some rows."""
    p = plan[0]
    row, vector = tile // p.vectors * p.tile_rows, tile % p.vectors
    rows = min(p.tile_rows, _word_rows(p) - row)
    b = target + 4 * _target_offset(p, row, vector * p.lanes)
    if p.down:
        a = source + 4 * _source_offset(p, 2 * row, vector * p.lanes)
        _pairs_of_rows(p, (a, b), (row, rows), min(p.lanes, p.cols - vector * p.lanes))
    else:
        col = 2 * vector * p.lanes
        a = source + 4 * _source_offset(p, row, col)
        high = _source_offset(p, 0, col + p.lanes) - _source_offset(p, 0, col)
        low_count = min(p.lanes, p.cols - col)
        high_count = max(0, min(p.lanes, p.cols - col - p.lanes))
        counts = (low_count, high_count, (low_count + high_count + 1) // 2)
        _call(p, (a, b), p.source_row_step, rows, high, counts)


@jit
def _pairs_of_rows(p: Numbers, at: Any, run: Any, count: int) -> None:
    """Words of a row and the next; the last row of an odd number has none."""
    row, rows = run
    whole = min(rows, p.rows // 2 - row)
    step = p.source_row_step
    _call(p, at, 2 * step, whole, step, (count, count, count))
    if whole < rows:
        last = (at[0] + 8 * whole * step, at[1] + 4 * whole * p.target_row_step)
        _call(p, last, 0, 1, 0, (count, 0, count))


@jit
def _call(p: Numbers, at: Any, source_row: int, rows: int, high: int, counts: Any) -> None:
    low_count, high_count, words = counts
    arguments = (source_row, p.target_row_step, rows, high, low_count, high_count, words)
    unsafe.call(p.kernel, at + arguments)


@jit
def _offset(index: int, block: int, block_stride: int, step: int) -> int:
    return index // block * block_stride + index % block * step


@jit
def _source_offset(p: Numbers, row: int, col: int) -> int:
    down = _offset(row, p.source_row_block, p.source_row_block_stride, p.source_row_step)
    return down + _offset(col, p.source_col_block, p.source_col_block_stride, 1)


@jit
def _target_offset(p: Numbers, row: int, col: int) -> int:
    down = _offset(row, p.target_row_block, p.target_row_block_stride, p.target_row_step)
    return down + _offset(col, p.target_col_block, p.target_col_block_stride, 1)
