"""Operations on columns of matrices in any layout, in tiles of rows by vectors of columns.

A task is one such tile; which tasks there are depends on layouts alone, not on threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.calls.calls import bind
from dlrmjit_kernels.calls.entries import store_call
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.matrix.axes import common_tile, view_of
from dlrmjit_kernels.matrix.matrix import Matrix, check_apart
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
ThreeStrides = tuple[Strides, Strides, Strides]  # of x, y and dy


class _Shape(NamedTuple):
    """How matrices are cut: their extents, rows of a tile, adjacent columns of a run, lanes."""

    rows: int
    cols: int
    tile_rows: int
    run: int
    lanes: int


class _Addresses(NamedTuple):
    """Addresses of the operands; kernels ignore those that their operation does not have."""

    x: int
    y: int
    dy: int
    constants: int
    sums: int


def run_column_op(
    op: ColumnOp,
    matrices: tuple[Matrix, ...],
    constants: NDArray[Any],
    activation: Activation = Activation.NONE,
) -> None:
    """Apply ``op`` to the matrices x, y and dy, as many as it has, with its ``constants``."""
    bind_column_op(op, matrices, constants, activation=activation)()


def column_sums(
    op: ColumnOp,
    matrices: tuple[Matrix, ...],
    constants: NDArray[Any],
    activation: Activation = Activation.NONE,
) -> F64:
    """Return what ``op`` sums over rows, (2, cols); tiles are added from the first to the last."""
    return ColumnSums(op, matrices, constants, activation).add()


class ColumnSums:
    """What ``op`` sums over rows, bound to matrices and constants, whose contents may change."""

    def __init__(
        self,
        op: ColumnOp,
        matrices: tuple[Matrix, ...],
        constants: NDArray[Any],
        activation: Activation = Activation.NONE,
    ) -> None:
        x = matrices[0]
        self._partial = np.empty((ceil_div(x.rows, _tile_rows(matrices)), 2, x.cols))
        self._call = bind_column_op(op, matrices, constants, self._partial, activation)

    def add(self) -> F64:
        """Return the sums (2, cols); tiles are added from the first to the last."""
        self._call()
        total: F64 = self._partial.sum(axis=0)
        return total


def _tile_rows(matrices: tuple[Matrix, ...]) -> int:
    return common_tile((view_of(m.layout).rows for m in matrices), _ROWS)


def bind_column_op(
    op: ColumnOp,
    matrices: tuple[Matrix, ...],
    constants: NDArray[Any] = _NOTHING,
    sums: F64 = _NOTHING,
    activation: Activation = Activation.NONE,
) -> Call:
    """Return :func:`run_column_op` as a call to repeat.

    It owns matrices, constants and sums, whose contents may change.

    Raises
    ------
    ShapeError
        If the matrices are not of one shape.
    """
    shape = shape_of(matrices)
    if sums is _NOTHING:
        check_in_place(matrices[:-1], matrices[-1])
    tiles = tuple(Tiles.of(op, matrices, constants, sums, activation))
    return bind(_store_tiles, tiles, shape).owning(matrices, constants, sums)


def shape_of(matrices: tuple[Matrix, ...]) -> Five:
    """Return how matrices are cut: the fields of :class:`_Shape`."""
    x = matrices[0]
    if any((m.rows, m.cols) != (x.rows, x.cols) for m in matrices):
        shapes = [(m.rows, m.cols) for m in matrices]
        raise ShapeError(f"matrices of one shape are needed here, not {shapes}")
    run = common_tile((view_of(m.layout).cols for m in matrices), x.cols)
    return x.rows, x.cols, _tile_rows(matrices), run, current_target().lanes


class Tiles(NamedTuple):
    """The kernels of an operation for fewer columns and for whole vectors, and its operands."""

    edge: int
    whole: int
    addresses: Five
    strides: ThreeStrides

    @classmethod
    def of(
        cls,
        op: ColumnOp,
        matrices: tuple[Matrix, ...],
        constants: NDArray[Any],
        sums: F64,
        activation: Activation,
    ) -> Tiles:
        """Bind an operation; arrays and matrices must live, and not move in memory."""
        target = current_target()
        kernels = (ColumnKernel(op, full, activation) for full in (False, True))
        edge, whole = (engine.address(kernel, target) for kernel in kernels)
        x, y, dy = (*matrices, *matrices[-1:] * 2)[:3]
        addresses = (x.address, y.address, dy.address, constants.ctypes.data, sums.ctypes.data)
        strides = strides_of(x.layout), strides_of(y.layout), strides_of(dy.layout)
        return cls(edge, whole, addresses, strides)


def check_in_place(inputs: tuple[Matrix, ...], output: Matrix) -> None:
    """Refuse an output that overlaps an input and is not the same matrix."""
    others = [m for m in inputs if m.address != output.address or m.layout != output.layout]
    check_apart("the output", output, **{f"input {i}": m for i, m in enumerate(others)})


@jit
def _store_tiles(frame: int, operands: Any) -> int:
    address: int = store_call(_run_tiles, frame, operands)
    return address


@jit
def _run_tiles(tiles: Any, shape: Five) -> None:
    s = _Shape(*shape)
    run_vectors(tiles, shape, (0, ceil_div(s.cols, s.run) * ceil_div(s.run, s.lanes)))


@jit
def run_vectors(tiles: Any, shape: Five, vectors: tuple[int, int]) -> None:
    """Apply the operation of ``tiles`` to vectors of columns, the first up to the second.

    Each run has as many vectors as a whole one; those beyond the last column are none.
    """
    s, (first, end) = _Shape(*shape), vectors
    of_run = ceil_div(s.run, s.lanes)
    last = s.cols // s.run * of_run + ceil_div(s.cols % s.run, s.lanes)
    count = min(end, last) - first
    edge, whole, addresses, strides = tiles
    operands = (edge, whole, s, of_run, first, count, _Addresses(*addresses), strides)
    is_small = s.rows * s.cols < PARALLEL_MIN_ELEMENTS
    run_tasks(_run_tile, ceil_div(s.rows, s.tile_rows) * count, operands, is_small)


@task_jit
def _run_tile(
    task: int,
    edge: int,
    whole: int,
    s: _Shape,
    vectors_of_run: int,
    first: int,
    count: int,
    addresses: _Addresses,
    strides: ThreeStrides,
) -> None:
    """Apply the operation to one of ``count`` vectors of columns in a tile of rows."""
    tile, vector = task // count, first + task % count
    begin = vector // vectors_of_run * s.run
    column = begin + vector % vectors_of_run * s.lanes
    active = min(s.lanes, min(s.cols, begin + s.run) - column)
    kernel = whole if active == s.lanes else edge
    _call(kernel, s, addresses, strides, tile, column, active)


@jit
def _call(
    kernel: int,
    s: _Shape,
    addresses: _Addresses,
    strides: ThreeStrides,
    tile: int,
    column: int,
    active: int,
) -> None:
    """Call the kernel for ``active`` columns from ``column`` on in a tile of rows."""
    x, y, dy = strides
    row = tile * s.tile_rows
    unsafe.call(
        kernel,
        (
            addresses.x + 4 * run_start(x, row_start(x, row), column),
            addresses.y + 4 * run_start(y, row_start(y, row), column),
            addresses.dy + 4 * run_start(dy, row_start(dy, row), column),
            x[4],
            y[4],
            dy[4],
            min(s.tile_rows, s.rows - row),
            active,
            row,
            column,
            s.cols,
            addresses.constants,
            addresses.sums + 16 * s.cols * tile,  # two rows of float64 per tile
        ),
    )
