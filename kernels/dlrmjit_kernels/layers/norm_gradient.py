"""The gradient of batch normalisation: sums over rows, then the gradient of the input.

Both passes read the same matrices. They follow each other for as many columns at a time as the last
cache has room for, so that main memory is read once; sums and tiles are those of
:mod:`.column_ops`, whatever the number of columns or of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.calls.calls import bind
from dlrmjit_kernels.calls.entries import store_call
from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.layers.column_ops import Tiles, check_in_place, run_vectors, shape_of
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.microkernels.column_ops import ColumnOp
from dlrmjit_kernels.runtime.compile import jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.target import current_target

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_SUMS, _GRADIENT = 1, 2  # bits of the passes to run
_SHARE = 4  # the part of the last cache that the matrices of a few columns may fill


class NormGradient:
    """Gradients of ``y = activation(gamma * (x - mean) * inverse + beta)``, bound to matrices.

    The gradient dy of y becomes that of x. With ``dx``, a residual was added before the activation:
    dx becomes the gradient of x, and dy that of the residual. ``stored`` is y, for an activation
    that ``has_slopes`` its derivatives. With ``affine``, the float32 scale and shift (2, C) that
    made y from x, y is computed again and not read. Contents may change from call to call.

    Raises
    ------
    ShapeError
        For matrices of different shapes, or that overlap and are not the same.
    """

    def __init__(
        self,
        x: Matrix,
        stored: Matrix,
        dy: Matrix,
        activation: Activation,
        dx: Matrix | None = None,
        affine: F32 | None = None,
    ) -> None:
        check_in_place((x, stored), dy)
        if dx is not None:
            check_in_place((x, stored, dy), dx)
        again = affine is not None and activation and not activation.has_slopes and dx is None
        self._affine = affine if again else None
        first, second = _operations(bool(again), dx is not None, activation)
        shape = shape_of((x, stored, dy) if dx is None else (x, stored, dy, dx))
        self._constants = np.zeros((6, x.cols), np.float32)
        partial = np.empty((ceil_div(x.rows, shape[2]), 2, x.cols))
        self._columns = np.zeros((5, x.cols))
        self._control = np.zeros(2, np.int64)
        last = (x, stored, dy) if dx is None else (x, dy, dx)
        passes = (
            Tiles.of(first, (x, stored, dy), self._constants, partial, activation),
            Tiles.of(second, last, self._constants, partial, activation),
        )
        runs = max(1, current_target().l3 // _SHARE // max(1, 12 * x.rows * shape[3]))
        arrays = self._constants, partial, self._columns, self._control
        call = bind(_store_passes, *(tuple(p) for p in passes), shape, *arrays, runs)
        self._call = call.owning(x, stored, dy, dx)

    def sums(self, mean: F64) -> F64:
        """Return the sums of dz and of ``dz * (x - mean)``, (2, C), dz before the activation."""
        self._run(_SUMS, mean)
        return self._own_sums()

    def apply(self, mean: F64, inverse: F64, gamma: F32, sums: F64, rows: int) -> None:
        """Write the gradient of x, given the :meth:`sums` over a batch of ``rows`` samples."""
        self._columns[1], self._columns[2], self._columns[3:] = inverse, gamma, sums
        self._run(_GRADIENT, mean, rows)

    def whole(self, mean: F64, inverse: F64, gamma: F32, rows: int) -> F64:
        """Do both for a whole batch; return the sums."""
        self._columns[1], self._columns[2] = inverse, gamma
        self._run(_SUMS | _GRADIENT, mean, rows)
        return self._own_sums()

    def _own_sums(self) -> F64:
        sums: F64 = self._columns[3:].copy()
        return sums

    def _run(self, passes: int, mean: F64, rows: int = 0) -> None:
        self._columns[0] = mean
        if self._affine is not None:
            self._constants[4:] = self._affine
        self._control[0], self._control[1] = passes, rows
        self._call()


def _operations(again: bool, apart: bool, activation: Activation) -> tuple[ColumnOp, ColumnOp]:
    """Return the operations of both passes."""
    if apart:
        return (
            ColumnOp.SLOPE_SUMS if activation else ColumnOp.GRADIENT_SUMS,
            ColumnOp.APART_GRADIENT,
        )
    if again:
        return ColumnOp.AGAIN_SUMS, ColumnOp.AGAIN_GRADIENT
    return ColumnOp.GRADIENT_SUMS, ColumnOp.INPUT_GRADIENT


@jit
def _store_passes(frame: int, operands: Any) -> int:
    address: int = store_call(_run_passes, frame, operands)
    return address


@jit
def _run_passes(
    summing: Any,
    applying: Any,
    shape: Any,
    constants: NDArray[np.float32],
    partial: F64,
    columns: F64,
    control: NDArray[np.int64],
    runs: int,
) -> None:
    _, cols, _, run, lanes = shape
    passes, rows = control[0], control[1]
    of_run, every = ceil_div(run, lanes), ceil_div(cols, run)
    for first in range(0, every, runs):
        end = min(every, first + runs)
        left, right = first * run, min(cols, end * run)
        vectors = (first * of_run, end * of_run)
        constants[0, left:right] = columns[0, left:right]
        if passes & _SUMS:
            run_vectors(summing, shape, vectors)
            _add_tiles(partial, columns, left, right)
        if passes & _GRADIENT:
            _write_constants(columns, constants, left, right, rows)
            run_vectors(applying, shape, vectors)


@jit
def _add_tiles(partial: F64, columns: F64, left: int, right: int) -> None:
    """Add the sums of tiles, from the first to the last."""
    columns[3:, left:right] = 0.0
    for tile in range(len(partial)):
        for k in range(2):
            for c in range(left, right):
                columns[3 + k, c] += partial[tile, k, c]


@jit
def _write_constants(
    columns: F64, constants: NDArray[np.float32], left: int, right: int, rows: int
) -> None:
    for c in range(left, right):
        inverse = columns[1, c]
        factor = columns[2, c] * inverse
        constants[1, c] = factor
        constants[2, c] = factor * columns[3, c] / rows
        constants[3, c] = factor * (inverse * inverse) * columns[4, c] / rows
