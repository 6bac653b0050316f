"""Rounds float32 matrices to BF16 pairs, which the tile multiplies.

A pair is two neighbours along the reduction: of a row if that runs along the columns, of a column
if it runs down the rows. The last of an odd number is paired with zero.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.calls.calls import Calls, bind
from dlrmjit_kernels.calls.entries import store_call
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.matrix.axes import View
from dlrmjit_kernels.matrix.tiles import (
    Tile,
    TilePlan,
    make_plan,
    offset,
    plan_type,
    tile_at,
    tile_extent,
)
from dlrmjit_kernels.microkernels.round_bf16 import RoundBf16
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS, run_tasks
from dlrmjit_kernels.runtime.target import Target, current_target
from dlrmjit_kernels.runtime.threads import get_threads

_PLAN = plan_type("source_rows", "source_cols", "lanes", "down", "kernel")
_LONGEST = 64  # rows of pairs of a tile


class _Counts(NamedTuple):
    """Numbers of the first and of the second vector of a row, and the pairs made of them."""

    low: int
    high: int
    pairs: int


def can_round(source: View, down: bool, target: Target) -> bool:
    """Return whether :func:`round_to_pairs` can read a matrix.

    Its blocks must not cut vectors or pairs. Only a processor that multiplies BF16 numbers has
    the instruction that rounds to them.
    """
    cols, rows = source.cols, source.rows
    adjacent = cols.step == 1 or cols.extent == 1
    whole_vectors = cols.uniform or cols.block % target.lanes == 0
    whole_pairs = not down or rows.uniform or rows.block % 2 == 0
    return target.bf16 and adjacent and whole_vectors and whole_pairs


def round_to_pairs(
    source: View, source_address: int, pairs: View, address: int, down: bool
) -> None:
    """Write the BF16 pairs of ``source`` (rows, cols) to ``pairs`` (rows, ceil(cols / 2)).

    With ``down``, ``pairs`` is (ceil(rows / 2), cols). Its columns must be adjacent in blocks of
    whole vectors, and :func:`can_round` must hold for ``source``.
    """
    bind_round(source, source_address, pairs, address, down)()


def bind_round(
    source: View, source_address: int, pairs: View, address: int, down: bool, moved: int = 0
) -> Calls:
    """Return :func:`round_to_pairs` as a call to repeat.

    An ``address`` that is ``moved``, 1 and not 0, counts from that of the scratch.
    """
    small = source.rows.extent * source.cols.extent < PARALLEL_MIN_ELEMENTS
    plan, serial = _plan(source, pairs, down, current_target()), small or get_threads() == 1
    return bind(_store_round, plan, serial, source_address, address, moved)


@functools.lru_cache(maxsize=4096)
def _plan(source: View, pairs: View, down: bool, target: Target) -> NDArray[np.void]:
    return make_plan(
        _PLAN,
        source,
        pairs,
        (pairs.rows.extent, pairs.cols.extent),
        (tile_extent(source.rows.every(1 + down), pairs.rows, _LONGEST), target.lanes),
        source_rows=source.rows.extent,
        source_cols=source.cols.extent,
        lanes=target.lanes,
        down=down,
        kernel=engine.address(RoundBf16(interleave=down), target),
    )


@jit
def _store_round(frame: int, operands: Any) -> int:
    address: int = store_call(_round, frame, operands)
    return address


@jit
def _round(
    plan: NDArray[Any], serial: bool, source: int, target: int, moved: int, scratch: int
) -> None:
    run_tasks(_round_tile, plan[0].tiles, (plan, source, target + moved * scratch), serial)


@task_jit
def _round_tile(number: int, plan: NDArray[Any], source: int, target: int) -> None:
    """Write one vector of pairs in each of some rows."""
    p = plan[0]
    tile = tile_at(p, number)
    b = target + 4 * offset(p.target, tile.row, tile.col)
    if p.down:
        a = source + 4 * offset(p.source, 2 * tile.row, tile.col)
        _pair_rows(p, a, b, tile)
    else:
        a = source + 4 * offset(p.source, tile.row, 2 * tile.col)
        _pair_columns(p, a, b, tile)


@jit
def _pair_columns(p: TilePlan, source: int, target: int, tile: Tile) -> None:
    """Make one vector of pairs of two vectors of each row."""
    col = 2 * tile.col
    left = p.source_cols - col
    low, high = min(p.lanes, left), max(0, min(p.lanes, left - p.lanes))
    # The second vector may be in the next block, which need not follow the first.
    distance = offset(p.source, 0, col + p.lanes) - offset(p.source, 0, col)
    counts = _Counts(low, high, ceil_div(low + high, 2))
    _round_rows(p, source, target, p.source.rows.step, tile.height, distance, counts)


@jit
def _pair_rows(p: TilePlan, source: int, target: int, tile: Tile) -> None:
    """Make pairs of each even row and the next; the last row of an odd number has no partner."""
    step, width = p.source.rows.step, tile.width
    whole = min(tile.height, p.source_rows // 2 - tile.row)
    _round_rows(p, source, target, 2 * step, whole, step, _Counts(width, width, width))
    if whole < tile.height:
        source += 8 * whole * step
        target += 4 * whole * p.target.rows.step
        _round_rows(p, source, target, 0, 1, 0, _Counts(width, 0, width))


@jit
def _round_rows(
    p: TilePlan, source: int, target: int, source_row: int, rows: int, high: int, counts: _Counts
) -> None:
    """Call the kernel, with ``high`` the distance of the second vector from the first."""
    strides = (source_row, p.target.rows.step)
    arguments = (source, target, *strides, rows, high, counts.low, counts.high, counts.pairs)
    unsafe.call(p.kernel, arguments)
