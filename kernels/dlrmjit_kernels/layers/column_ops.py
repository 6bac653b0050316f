"""Column by column work on matrices in any layout: where tiles of rows and vectors of columns lie.

A task is one vector of columns in some rows; which tasks there are follows from layouts alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.matrix.axes import common_tile, view_of
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.row_access import Strides, row_start, run_start, strides_of
from dlrmjit_kernels.microkernels.column_ops import ColumnKernel, ColumnOp
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import Call, jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS, run_tasks
from dlrmjit_kernels.runtime.target import current_target

_ROWS = 64  # of a task in matrices that are not in blocks
_NOTHING = np.empty(0)
F64 = NDArray[np.float64]
Five = tuple[int, int, int, int, int]


def walk(step: ColumnOp, matrices: tuple[Matrix, ...], constants: NDArray[Any]) -> None:
    """Do a step to the matrices x, y and dy, as many as it has; ``constants`` as it wants them."""
    bind(step, matrices, constants)()


def sums(step: ColumnOp, matrices: tuple[Matrix, ...], constants: NDArray[Any]) -> F64:
    """What a step sums, (2, cols): tiles of rows are added up from the first to the last."""
    x = matrices[0]
    found = np.empty((ceil_div(x.rows, _tile_rows(matrices)), 2, x.cols))
    bind(step, matrices, constants, found)()
    total: F64 = found.sum(axis=0)
    return total


def _tile_rows(matrices: tuple[Matrix, ...]) -> int:
    return common_tile((view_of(m.layout).rows for m in matrices), _ROWS)


def bind(
    step: ColumnOp,
    matrices: tuple[Matrix, ...],
    constants: NDArray[Any] = _NOTHING,
    sums: F64 = _NOTHING,
) -> Call:
    """A call of :func:`walk`, as often as wanted.

    It holds addresses: matrices, constants and sums must live, and stay where they are, as long
    as it is called.

    Raises
    ------
    ShapeError
        If the matrices are not of one shape.
    """
    x = matrices[0]
    if any((m.rows, m.cols) != (x.rows, x.cols) for m in matrices):
        found = [(m.rows, m.cols) for m in matrices]
        raise ShapeError(f"matrices of one shape are wanted here, not {found}")
    target = current_target()
    run = common_tile((view_of(m.layout).cols for m in matrices), x.cols)
    shape = (x.rows, x.cols, _tile_rows(matrices), run, target.lanes)
    edge, whole = (engine.address(ColumnKernel(step, full), target) for full in (False, True))
    x, y, dy = (*matrices, *matrices[-1:] * 2)[:3]
    addresses = (x.address, y.address, dy.address, constants.ctypes.data, sums.ctypes.data)
    strides = strides_of(x.layout), strides_of(y.layout), strides_of(dy.layout)
    return partial(
        _walk, (edge, whole), shape, addresses, strides, x.rows * x.cols < PARALLEL_MIN_ELEMENTS
    )


@jit
def _walk(
    kernels: tuple[int, int],
    shape: Five,
    addresses: Five,
    strides: tuple[Strides, Strides, Strides],
    alone: bool,
) -> None:
    rows, cols, tile_rows, run, lanes = shape
    of_run = ceil_div(run, lanes)
    across = (cols // run) * of_run + ceil_div(cols % run, lanes)
    operands = (kernels, shape, (of_run, across), addresses, strides)
    run_tasks(_walk_tile, ceil_div(rows, tile_rows) * across, operands, alone)


@task_jit
def _walk_tile(
    task: int,
    kernels: tuple[int, int],
    shape: Five,
    vectors: tuple[int, int],
    addresses: Five,
    strides: tuple[Strides, Strides, Strides],
) -> None:
    """One vector of columns, of so many in a run and in a row, in a tile of rows."""
    _, cols, _, run, lanes = shape
    of_run, across = vectors
    tile, vector = task // across, task % across
    begin = vector // of_run * run
    column = begin + vector % of_run * lanes
    active = min(lanes, min(cols, begin + run) - column)
    _do(kernels, shape, addresses, strides, tile, column, active)


@jit
def _do(
    kernels: tuple[int, int],
    shape: Five,
    addresses: Five,
    strides: tuple[Strides, Strides, Strides],
    tile: int,
    column: int,
    active: int,
) -> None:
    """Call the kernel for ``active`` columns from ``column`` on in a tile of rows."""
    rows, cols, tile_rows, _, lanes = shape
    x, y, dy = strides
    row = tile * tile_rows
    ax = addresses[0] + 4 * run_start(x, row_start(x, row), column)
    ay = addresses[1] + 4 * run_start(y, row_start(y, row), column)
    ady = addresses[2] + 4 * run_start(dy, row_start(dy, row), column)
    where = (ax, ay, ady, x[4], y[4], dy[4], min(tile_rows, rows - row), active)
    count = (row, column, cols, addresses[3], addresses[4] + 16 * cols * tile)
    unsafe.call(kernels[1] if active == lanes else kernels[0], where + count)
