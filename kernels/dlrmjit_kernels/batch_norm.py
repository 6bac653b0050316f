"""Batch normalisation of the columns of a matrix, and ReLU (Ioffe and Szegedy 2015).

A task owns some rows and walks them run by run, so every loop is over adjacent elements. What
it sums, in double precision, is added up in the order of the tasks: the same for any number
of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from dlrmjit.errors import ShapeError
from dlrmjit_kernels.compile import jit, parallel_jit
from dlrmjit_kernels.matrix import Matrix
from dlrmjit_kernels.rows import Strides, common_run, row_start, run_start, strides_of

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_ROWS = 32  # of a task: the sums of all tasks stay far below the matrix in size
_ZERO = np.float32(0)


def column_moments(x: Matrix, mean: F64, variance: F64) -> None:
    """Mean and biased variance of every column of ``x`` (N, C), N > 0, into float64 (C,)."""
    _check(x, mean, variance)
    first = np.empty(x.cols, np.float32)
    sums = np.empty((-(-x.rows // _ROWS), 2, x.cols))
    _sums(x.data, strides_of(x.layout), x.rows, common_run(x.layout), first, sums)
    moved, squares = sums.sum(axis=0) / x.rows
    np.maximum(squares - moved * moved, 0.0, out=variance)
    np.add(first, moved, out=mean)


def normalise_relu(x: Matrix, y: Matrix, scale: F32, shift: F32) -> None:
    """``y = max(x * scale + shift, 0)`` by column; may be in place."""
    for matrix in (x, y):
        _check(matrix, scale, shift)
    xs, ys = strides_of(x.layout), strides_of(y.layout)
    width = common_run(x.layout, y.layout)
    _normalise_relu(x.data, xs, y.data, ys, x.rows, width, scale, shift)


def batch_norm_backward(
    x: Matrix, y: Matrix, dy: Matrix, mean: F64, inverse: F64, gamma: F32, dgamma: F32, dbeta: F32
) -> None:
    """Gradients of ``y = relu(gamma * (x - mean) * inverse + beta)`` with moments of x's columns.

    ``inverse`` is ``1 / sqrt(variance + eps)``. Writes dgamma and dbeta, and dx over dy.
    """
    for matrix in (x, y, dy):
        _check(matrix, mean, gamma)
    where = (strides_of(x.layout), strides_of(y.layout), strides_of(dy.layout))
    width = common_run(x.layout, y.layout, dy.layout)
    middle = mean.astype(np.float32)
    sums = np.empty((-(-x.rows // _ROWS), 2, x.cols))
    _gradient_sums(x.data, y.data, dy.data, *where, x.rows, width, middle, sums)
    dbeta[...], by_x = plain, _ = sums.sum(axis=0)
    dgamma[...] = by_x * inverse
    factor = gamma * inverse
    parts = (factor, factor * plain / x.rows, factor * inverse**2 * by_x / x.rows)
    factors = [part.astype(np.float32) for part in parts]
    _input_gradient(x.data, y.data, dy.data, *where, x.rows, width, middle, *factors)


def _check(x: Matrix, *vectors: NDArray[Any]) -> None:
    if any(vector.shape != (x.cols,) for vector in vectors):
        found = [vector.shape for vector in vectors]
        raise ShapeError(f"vectors of {x.cols} columns are wanted here, not {found}")


@parallel_jit
def _sums(x: F32, xs: Strides, rows: int, width: int, first: F32, sums: F64) -> None:
    """Per task, sums of x - x[0] and of its square: small numbers where the spread is small."""
    start = row_start(xs, 0)
    for c in range(len(first)):
        first[c] = x[run_start(xs, start, c)]
    for task in prange(len(sums)):
        sums[task] = 0.0
        for row in range(task * _ROWS, min(rows, (task + 1) * _ROWS)):
            _add_row(x, xs, row, width, first, sums[task, 0], sums[task, 1])


@jit
def _add_row(
    x: F32, xs: Strides, row: int, width: int, first: F32, total: F64, squares: F64
) -> None:
    start = row_start(xs, row)
    for column in range(0, len(first), width):
        at = slice(column, min(len(first), column + width))
        a = run_start(xs, start, column)
        _add_run(x[a : a + width], first[at], total[at], squares[at])


@jit
def _add_run(x: F32, first: F32, total: F64, squares: F64) -> None:
    for k in range(len(first)):
        moved = np.float64(x[k]) - np.float64(first[k])
        total[k] += moved
        squares[k] += moved * moved


@parallel_jit
def _normalise_relu(
    x: F32, xs: Strides, y: F32, ys: Strides, rows: int, width: int, scale: F32, shift: F32
) -> None:
    for row in prange(rows):
        starts = row_start(xs, row), row_start(ys, row)
        for column in range(0, len(scale), width):
            at = slice(column, min(len(scale), column + width))
            a, b = run_start(xs, starts[0], column), run_start(ys, starts[1], column)
            _normalise_run(x[a : a + width], y[b : b + width], scale[at], shift[at])


@jit
def _normalise_run(x: F32, y: F32, scale: F32, shift: F32) -> None:
    for k in range(len(scale)):
        y[k] = max(x[k] * scale[k] + shift[k], _ZERO)


@parallel_jit
def _gradient_sums(
    x: F32,
    y: F32,
    dy: F32,
    xs: Strides,
    ys: Strides,
    dys: Strides,
    rows: int,
    width: int,
    mean: F32,
    sums: F64,
) -> None:
    """Per task, sums of dy and of dy * (x - mean), where y > 0."""
    for task in prange(len(sums)):
        sums[task] = 0.0
        for row in range(task * _ROWS, min(rows, (task + 1) * _ROWS)):
            starts = row_start(xs, row), row_start(ys, row), row_start(dys, row)
            for column in range(0, len(mean), width):
                at = slice(column, min(len(mean), column + width))
                a, b = run_start(xs, starts[0], column), run_start(ys, starts[1], column)
                c = run_start(dys, starts[2], column)
                own = x[a : a + width], y[b : b + width], dy[c : c + width]
                _add_gradients(own, mean[at], sums[task, 0, at], sums[task, 1, at])


@jit
def _add_gradients(own: tuple[F32, F32, F32], mean: F32, plain: F64, by_x: F64) -> None:
    x, y, dy = own
    for k in range(len(mean)):
        gradient = np.float64(dy[k])
        gradient = gradient if y[k] > _ZERO else 0.0
        plain[k] += gradient
        by_x[k] += gradient * np.float64(x[k] - mean[k])


@parallel_jit
def _input_gradient(
    x: F32,
    y: F32,
    dy: F32,
    xs: Strides,
    ys: Strides,
    dys: Strides,
    rows: int,
    width: int,
    mean: F32,
    factor: F32,
    plain: F32,
    by_x: F32,
) -> None:
    """``dy = factor * dy - plain - by_x * (x - mean)``, where ``y > 0`` says which dy there are."""
    for row in prange(rows):
        starts = row_start(xs, row), row_start(ys, row), row_start(dys, row)
        for column in range(0, len(mean), width):
            at = slice(column, min(len(mean), column + width))
            a, b = run_start(xs, starts[0], column), run_start(ys, starts[1], column)
            c = run_start(dys, starts[2], column)
            own = x[a : a + width], y[b : b + width], dy[c : c + width]
            _write_gradients(own, mean[at], factor[at], plain[at], by_x[at])


@jit
def _write_gradients(
    own: tuple[F32, F32, F32], mean: F32, factor: F32, plain: F32, by_x: F32
) -> None:
    x, y, dy = own
    for k in range(len(mean)):
        gradient = dy[k]
        gradient = gradient if y[k] > _ZERO else _ZERO
        dy[k] = factor[k] * gradient - plain[k] - by_x[k] * (x[k] - mean[k])
