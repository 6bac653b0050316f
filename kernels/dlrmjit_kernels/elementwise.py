"""Operations that touch each element once: on flat arrays, and on matrices of any layout.

Forward, activations are fused with matrix products; backward, the last layer's has none.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from dlrmjit.errors import ShapeError
from dlrmjit_kernels.compile import alone, jit, parallel_jit
from dlrmjit_kernels.matrix import Matrix
from dlrmjit_kernels.rows import Strides, position, run_length, strides_of

F32 = NDArray[np.float32]
Real = Any  # a Python float or a NumPy scalar, which are one to a compiled kernel

RUN = 4096
"""Elements per task of a flat kernel: 16 KiB, so that an operand's piece stays in the L1 cache."""

SMALL = 4 * RUN
"""Elements below which the calling thread is done before it could share the work."""


def scale(x: F32, factor: float) -> None:
    """``x *= factor``; x flat float32."""
    check_flat(x)
    loop = _scale_alone if x.size < SMALL else _scale
    loop(x, np.float32(factor))


def sum_of_squares(x: Matrix) -> float:
    """Sum of the squares of all elements, padding excluded, in double precision."""
    partial = np.empty(x.rows)
    _row_squares(x.data, strides_of(x.layout), x.cols, partial)
    return float(partial.sum())


def relu_backward(y: Matrix, dy: Matrix, dx: Matrix) -> None:
    """``dx = dy * (y > 0)`` from the output y of the forward; dx may be dy."""
    _check_matrices(y, dy, dx)
    ys, dys, dxs = strides_of(y.layout), strides_of(dy.layout), strides_of(dx.layout)
    loop = _relu_backward_alone if y.rows * y.cols < SMALL else _relu_backward
    loop(y.data, ys, dy.data, dys, dx.data, dxs, y.rows, y.cols)


def sigmoid_backward(y: Matrix, dy: Matrix, dx: Matrix) -> None:
    """``dx = dy * y * (1 - y)`` from the output y of the forward; dx may be dy."""
    _check_matrices(y, dy, dx)
    ys, dys, dxs = strides_of(y.layout), strides_of(dy.layout), strides_of(dx.layout)
    _sigmoid_backward(y.data, ys, dy.data, dys, dx.data, dxs, y.rows, y.cols)


def check_flat(*arrays: F32) -> None:
    """Raise ShapeError unless all are flat, contiguous float32 arrays of one length."""
    size = arrays[0].size
    for a in arrays:  # a plain loop: it runs at every call
        if a.ndim != 1 or a.dtype != np.float32 or not a.flags.c_contiguous:
            found = ", ".join(f"{a.dtype} {a.shape}" for a in arrays)
            raise ShapeError(f"flat, contiguous float32 arrays are wanted here, not {found}")
        if a.size != size:
            sizes = [a.size for a in arrays]
            raise ShapeError(f"arrays of one length are wanted here, not {sizes}")


def _check_matrices(*matrices: Matrix) -> None:
    shapes = [(m.rows, m.cols) for m in matrices]
    if len(set(shapes)) != 1:
        raise ShapeError(f"matrices of one shape are wanted here, not {shapes}")


@parallel_jit
def _scale(x: F32, factor: np.float32) -> None:
    for task in prange((x.size + RUN - 1) // RUN):
        for i in range(task * RUN, min(x.size, (task + 1) * RUN)):
            x[i] *= factor


_scale_alone = alone(_scale)


@parallel_jit
def _row_squares(x: F32, xs: Strides, cols: int, partial: NDArray[np.float64]) -> None:
    for row in prange(len(partial)):
        total, column = 0.0, 0
        while column < cols:
            run = run_length(xs, column, cols - column)
            start = position(xs, row, column)
            for k in range(run):
                value = np.float64(x[start + k])
                total += value * value
            column += run
        partial[row] = total


@jit
def sigmoid(x: Real) -> Real:
    """The logistic function of one float32, rounded once from double precision."""
    return np.float32(1.0 / (1.0 + math.exp(-np.float64(x))))


@parallel_jit
def _relu_backward(
    y: F32, ys: Strides, dy: F32, dys: Strides, dx: F32, dxs: Strides, rows: int, cols: int
) -> None:
    for row in prange(rows):
        column = 0
        while column < cols:
            run = _common_run(ys, dys, dxs, column, cols - column)
            a, b = position(ys, row, column), position(dys, row, column)
            c = position(dxs, row, column)
            for k in range(run):
                gradient = dy[b + k]  # read in either case, so that no branch is needed
                dx[c + k] = gradient if y[a + k] > 0 else np.float32(0)
            column += run


_relu_backward_alone = alone(_relu_backward)


@parallel_jit
def _sigmoid_backward(
    y: F32, ys: Strides, dy: F32, dys: Strides, dx: F32, dxs: Strides, rows: int, cols: int
) -> None:
    for row in prange(rows):
        column = 0
        while column < cols:
            run = _common_run(ys, dys, dxs, column, cols - column)
            a, b = position(ys, row, column), position(dys, row, column)
            c = position(dxs, row, column)
            for k in range(run):
                dx[c + k] = dy[b + k] * (y[a + k] * (np.float32(1) - y[a + k]))
            column += run


@jit
def _common_run(first: Strides, second: Strides, third: Strides, column: int, count: int) -> int:
    """How many of ``count`` elements from ``column`` on are adjacent in all three matrices."""
    count = min(run_length(first, column, count), run_length(second, column, count))
    return min(count, run_length(third, column, count))
