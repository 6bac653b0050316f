"""Walks two strided matrices in tiles: what all copies between layouts have in common.

A tile is a rectangle of the target in which rows and columns are evenly spaced, in the target and
in the source, so a copy needs two strides per tile and no division per element. Tiles are
independent: threads copy them in parallel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.matrix.axes import Axis, View, common_tile
from dlrmjit_kernels.runtime.compile import jit
from dlrmjit_kernels.runtime.integers import ceil_div

_AXIS = np.dtype([(name, np.int64) for name in ("block", "block_stride", "step")])
_VIEW = np.dtype([("rows", _AXIS), ("cols", _AXIS)])
_TILING = ("rows", "cols", "tile_rows", "tile_cols", "tiles", "across")

TilePlan = Any  # a record of a plan_type, whose fields are attributes in compiled functions only
AxisRecord = Any  # a record of an Axis in a plan
ViewRecord = Any  # a record of a View in a plan


class Tile(NamedTuple):
    """First row and column of a tile, and its size, which is less at the end of the matrix."""

    row: int
    col: int
    height: int
    width: int


def plan_type(*fields: str) -> np.dtype[np.void]:
    """Return the record type of a plan with further int64 ``fields``."""
    numbers = [(name, np.int64) for name in (*_TILING, *fields)]
    return np.dtype([*numbers, ("source", _VIEW), ("target", _VIEW)])


def make_plan(
    kind: np.dtype[np.void],
    source: View,
    target: View,
    extents: tuple[int, int],
    tile: tuple[int, int],
    **fields: int,
) -> NDArray[np.void]:
    """Return a plan of ``kind``, an array of one record: compiled functions take its address.

    ``extents`` are the rows and columns that are cut into tiles of ``tile`` rows and columns.
    """
    plan = np.zeros(1, dtype=kind)
    record = plan[0]
    down, across = (ceil_div(*pair) for pair in zip(extents, tile, strict=True))
    values = dict(zip(_TILING, (*extents, *tile, down * across, across), strict=True)) | fields
    for name, value in values.items():
        record[name] = value
    for side, view in (("source", source), ("target", target)):
        for name, axis in (("rows", view.rows), ("cols", view.cols)):
            record[side][name] = (axis.block, axis.block_stride, axis.step)
    return plan


def tile_extent(source: Axis, target: Axis, longest: int) -> int:
    """Return the elements of a tile along an axis, which no border of a block may cut."""
    return common_tile((source, target), min(longest, target.extent))


@jit
def tile_at(plan: TilePlan, number: int) -> Tile:
    """Return tile ``number`` of ``plan.tiles``, counted along rows of ``plan.across`` tiles."""
    row = number // plan.across * plan.tile_rows
    col = number % plan.across * plan.tile_cols
    height, width = min(plan.tile_rows, plan.rows - row), min(plan.tile_cols, plan.cols - col)
    return Tile(row, col, height, width)


@jit
def offset(view: ViewRecord, row: int, col: int) -> int:
    """Return the offset of element (row, col) in elements."""
    return _axis_offset(view.rows, row) + _axis_offset(view.cols, col)


@jit
def _axis_offset(axis: AxisRecord, index: int) -> int:
    position: int = index // axis.block * axis.block_stride + index % axis.block * axis.step
    return position
