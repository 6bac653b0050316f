"""How the products of one sample's features are cut into register tiles: offsets and kernels.

Both directions are small products that the GEMM tile computes. Forward, ``Z = T @ T.T`` needs
its second operand in panels, so T is transposed into scratch first; tiles wholly above the
diagonal are left out. Backward, ``dT = A @ T`` reads T as it is stored.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.microkernels.gemm_tile import GemmTile
from dlrmjit_kernels.microkernels.transpose import Transpose
from dlrmjit_kernels.microkernels.triangle import PackTriangle, UnpackTriangle
from dlrmjit_kernels.runtime.integers import ceil_div, round_up
from dlrmjit_kernels.runtime.target import Target

I64 = NDArray[np.int64]

LINE = 16
"""Floats of a cache line."""


class Sizes(NamedTuple):
    """Floats of a sample's parts of the scratch.

    ``panels`` are those of T transposed, with rows of ``panel_row``; ``matrix`` those of Z or A,
    with rows of ``matrix_row``; ``row`` those of an output row, with space for a vector after it.
    """

    panels: int
    panel_row: int
    matrix: int
    matrix_row: int
    row: int


@dataclass(frozen=True)
class SamplePlan:
    """The kernel calls for one sample; all offsets and strides count floats.

    Attributes
    ----------
    squares
        Rows (offset in T, offset in the panels, kernel): transposes T into panels.
    forward
        Rows (offset in T, offset in the panels, offset in Z, kernel): tiles of the products.
    backward
        Rows (offset in A, offset in T, offset in dT, kernel): tiles of the gradient.
    sizes
        Fields of :class:`Sizes`, as a plain tuple: Numba unpacks it faster from Python.
    fold, unfold
        Kernels that copy the triangle of Z to a row, and a row to both triangles of A.
    """

    squares: I64
    forward: I64
    backward: I64
    sizes: tuple[int, ...]
    fold: int
    unfold: int


@functools.lru_cache(maxsize=256)
def sample_plan(features: int, width: int, itself: bool, target: Target) -> SamplePlan:
    """Plan samples of ``features`` vectors of ``width`` elements."""
    stride = round_up(features, target.nr)
    return SamplePlan(
        squares=_table(_squares(features, width, target), 3),
        forward=_table(_forward_tiles(features, width, itself, target), 4),
        backward=_table(_backward_tiles(features, width, stride, target), 4),
        sizes=_sizes(features, width, stride, target),
        fold=engine.address(PackTriangle(features, stride, itself), target),
        unfold=engine.address(UnpackTriangle(features, stride, itself), target),
    )


def _sizes(features: int, width: int, stride: int, target: Target) -> tuple[int, ...]:
    row = width + features * (features + 1) // 2 + target.lanes
    sizes = Sizes(stride * width, target.nr, features * stride, stride, round_up(row, LINE))
    return tuple(sizes)


def _table(rows: Iterator[tuple[int, ...]], columns: int) -> I64:
    return np.array(list(rows), np.int64).reshape(-1, columns)


def _squares(features: int, width: int, target: Target) -> Iterator[tuple[int, int, int]]:
    lanes, nr = target.lanes, target.nr
    for f in range(0, features, lanes):
        for e in range(0, width, lanes):
            rows, cols = min(lanes, features - f), min(lanes, width - e)
            spec = Transpose() if rows == cols == lanes else Transpose(rows, cols)
            panel = f // nr * nr * width + e * nr + f % nr
            yield f * width + e, panel, engine.address(spec, target)


def _forward_tiles(
    features: int, width: int, itself: bool, target: Target
) -> Iterator[tuple[int, int, int, int]]:
    lanes, nr = target.lanes, target.nr
    stride = round_up(features, nr)
    for first, last in _triangle_rows(features, itself, target):
        wanted = last if itself else last - 1
        for column in range(0, wanted, nr):
            cols = min(nr, round_up(wanted - column, lanes))
            spec = GemmTile(last - first, cols, width, 1, nr)
            yield (
                first * width,
                column * width,
                first * stride + column,
                engine.address(spec, target),
            )


def _backward_tiles(
    features: int, width: int, stride: int, target: Target
) -> Iterator[tuple[int, int, int, int]]:
    for column in range(0, width, target.nr):
        cols = min(target.nr, width - column)
        for first, last in _tile_rows(features, target.mr):
            spec = GemmTile(last - first, cols, stride, 1, width)
            address = engine.address(spec, target)
            yield first * stride, column, first * width + column, address


def _triangle_rows(features: int, itself: bool, target: Target) -> list[tuple[int, int]]:
    """Return tiles of rows that need equally many vectors of columns, if no more than equal ones.

    Rows of a triangle need another vector after as many rows as it has lanes.
    """
    first_of_next = range(target.lanes + (not itself), features, target.lanes)
    borders = [0, *first_of_next, features]
    cut = [
        (top + first, top + last)
        for top, bottom in itertools.pairwise(borders)
        for first, last in _tile_rows(bottom - top, target.mr)
    ]
    return min(cut, list(_tile_rows(features, target.mr)), key=len)


def _tile_rows(rows: int, limit: int) -> Iterator[tuple[int, int]]:
    """Return the fewest tiles of nearly equal height, none above ``limit``."""
    tiles = ceil_div(rows, limit)
    for tile in range(tiles):
        yield rows * tile // tiles, rows * (tile + 1) // tiles
