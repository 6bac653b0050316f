"""Copies a matrix from one layout to another: packing, unpacking and transposing in one pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.calls.calls import Calls, bind
from dlrmjit_kernels.calls.entries import store_call
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.matrix.axes import View
from dlrmjit_kernels.matrix.tiles import (
    TilePlan,
    make_plan,
    offset,
    plan_type,
    tile_at,
    tile_extent,
)
from dlrmjit_kernels.microkernels.copy_rows import CopyRows
from dlrmjit_kernels.microkernels.transpose import Transpose
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS, run_tasks
from dlrmjit_kernels.runtime.target import Target, current_target
from dlrmjit_kernels.runtime.threads import get_threads

_PLAN = plan_type("lanes", "transpose", "copy")
_LONGEST = 256  # rows or columns of a tile
BoundRelayout = Callable[[int, int], object]
"""A compiled copy between two layouts: a function of the addresses of source and target."""


def relayout(source: View, source_address: int, target: View, target_address: int) -> None:
    """Copy every element of ``source`` to the same row and column of ``target``.

    Columns, or rows, of ``target`` must be adjacent in memory within a block.
    """
    bind_relayout(source, target)(source_address, target_address)


def bind_relayout(source: View, target: View) -> BoundRelayout:
    """Return the compiled copy from one layout to another, a function of both addresses."""
    if target.cols.step != 1:
        source, target = source.transposed, target.transposed
    small = target.rows.extent * target.cols.extent < PARALLEL_MIN_ELEMENTS
    plan = _plan(source, target, current_target())
    return partial(_copy, plan, small or get_threads() == 1)


def bind_copy(
    source: View, source_address: int, target: View, target_address: int, moved: tuple[int, int]
) -> Calls:
    """Return :func:`relayout` as a call to repeat.

    Addresses of source and target that are ``moved``, 1 and not 0, count from the scratch.
    """
    if target.cols.step != 1:
        source, target = source.transposed, target.transposed
    small = target.rows.extent * target.cols.extent < PARALLEL_MIN_ELEMENTS
    plan, serial = _plan(source, target, current_target()), small or get_threads() == 1
    return bind(_store_copy, plan, serial, source_address, target_address, moved)


@functools.lru_cache(maxsize=4096)
def _plan(source: View, target: View, machine: Target) -> NDArray[np.void]:
    return make_plan(
        _PLAN,
        source,
        target,
        (target.rows.extent, target.cols.extent),
        (
            tile_extent(source.rows, target.rows, _LONGEST),
            tile_extent(source.cols, target.cols, _LONGEST),
        ),
        lanes=machine.lanes,
        transpose=engine.address(Transpose(), machine),
        copy=engine.address(CopyRows(2 * machine.lanes), machine),
    )


@jit
def _copy(plan: NDArray[Any], serial: bool, source: int, target: int) -> None:
    run_tasks(_copy_tile, plan[0].tiles, (plan, source, target), serial)


@jit
def _store_copy(frame: int, operands: Any) -> int:
    address: int = store_call(_moved_copy, frame, operands)
    return address


@jit
def _moved_copy(
    plan: NDArray[Any],
    serial: bool,
    source: int,
    target: int,
    moved: tuple[int, int],
    scratch: int,
) -> None:
    _copy(plan, serial, source + moved[0] * scratch, target + moved[1] * scratch)


@task_jit
def _copy_tile(number: int, plan: NDArray[Any], source: int, target: int) -> None:
    p = plan[0]
    tile = tile_at(p, number)
    a = source + 4 * offset(p.source, tile.row, tile.col)
    b = target + 4 * offset(p.target, tile.row, tile.col)
    if p.source.cols.step == 1:
        _copy_rows(p, a, b, tile.height, tile.width)
    else:
        _transpose(p, a, b, tile.height, tile.width)


@jit
def _copy_rows(p: TilePlan, source: int, target: int, rows: int, cols: int) -> None:
    width = 2 * p.lanes
    whole = cols // width * width
    for c in range(0, whole, width):
        strides = (p.source.rows.step, p.target.rows.step)
        unsafe.call(p.copy, (source + 4 * c, target + 4 * c, rows, *strides))
    for r in range(rows if whole < cols else 0):
        a = source + 4 * r * p.source.rows.step
        b = target + 4 * r * p.target.rows.step
        for c in range(whole, cols):
            unsafe.store(b + 4 * c, unsafe.load(a + 4 * c))


@jit
def _transpose(p: TilePlan, source: int, target: int, rows: int, cols: int) -> None:
    """Transpose squares of one vector by one vector where rows of the source are adjacent."""
    # Otherwise no square fits, and the loop over single elements copies the whole tile.
    lanes = p.lanes if p.source.rows.step == 1 else max(rows, cols) + 1
    whole_rows, whole_cols = rows // lanes * lanes, cols // lanes * lanes
    for r in range(0, whole_rows, lanes):
        for c in range(0, whole_cols, lanes):
            a = source + 4 * (r + c * p.source.cols.step)
            b = target + 4 * (r * p.target.rows.step + c)
            unsafe.call(p.transpose, (a, b, p.source.cols.step, p.target.rows.step))
    for r in range(rows):
        for c in range(0 if r >= whole_rows else whole_cols, cols):
            a = source + 4 * (r * p.source.rows.step + c * p.source.cols.step)
            unsafe.store(target + 4 * (r * p.target.rows.step + c), unsafe.load(a))
