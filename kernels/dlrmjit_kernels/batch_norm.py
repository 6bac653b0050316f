"""Batch normalisation of the columns of a matrix (Ioffe and Szegedy 2015).

A task owns some columns and walks down all rows, so sums have one order for any number of
threads; they are kept in double precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from dlrmjit.errors import ShapeError
from dlrmjit_kernels.compile import jit, parallel_jit
from dlrmjit_kernels.matrix import Matrix
from dlrmjit_kernels.rows import Strides, position, strides_of

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_COLUMNS = 16  # of a task


def column_moments(x: Matrix, mean: F64, variance: F64) -> None:
    """Mean and biased variance of every column of ``x`` (N, C), N > 0, into float64 (C,)."""
    _check(x, mean, variance)
    _column_moments(x.data, strides_of(x.layout), x.rows, mean, variance)


def normalise(x: Matrix, y: Matrix, scale: F32, shift: F32) -> None:
    """``y = x * scale + shift`` by column; may be in place."""
    _check(x, scale, shift)
    _check(y, scale, shift)
    xs, ys = strides_of(x.layout), strides_of(y.layout)
    _normalise(x.data, xs, y.data, ys, x.rows, scale, shift)


def batch_norm_backward(
    x: Matrix, dy: Matrix, dx: Matrix, mean: F64, inverse: F64, gamma: F32, dgamma: F32, dbeta: F32
) -> None:
    """Gradients of ``y = gamma * (x - mean) * inverse + beta`` with the moments of x's columns.

    ``inverse`` is ``1 / sqrt(variance + eps)``. Writes dx (may be dy), dgamma and dbeta.
    """
    for matrix in (x, dy, dx):
        _check(matrix, mean, gamma)
    xs, dys, dxs = strides_of(x.layout), strides_of(dy.layout), strides_of(dx.layout)
    moments = (mean, inverse)
    _backward(x.data, xs, dy.data, dys, dx.data, dxs, x.rows, moments, gamma, dgamma, dbeta)


def _check(x: Matrix, *vectors: NDArray[Any]) -> None:
    if any(vector.shape != (x.cols,) for vector in vectors):
        found = [vector.shape for vector in vectors]
        raise ShapeError(f"vectors of {x.cols} columns are wanted here, not {found}")


@jit
def _add_column_sums(x: F32, xs: Strides, rows: int, first: int, last: int, sums: F64) -> None:
    for row in range(rows):
        for c in range(first, last):
            sums[c] += np.float64(x[position(xs, row, c)])


@parallel_jit
def _column_moments(x: F32, xs: Strides, rows: int, mean: F64, variance: F64) -> None:
    cols = len(mean)
    for task in prange((cols + _COLUMNS - 1) // _COLUMNS):
        first, last = task * _COLUMNS, min(cols, (task + 1) * _COLUMNS)
        mean[first:last] = 0.0
        variance[first:last] = 0.0
        _add_column_sums(x, xs, rows, first, last, mean)
        mean[first:last] /= rows
        for row in range(rows):
            for c in range(first, last):
                centred = np.float64(x[position(xs, row, c)]) - mean[c]
                variance[c] += centred * centred
        variance[first:last] /= rows


@parallel_jit
def _normalise(x: F32, xs: Strides, y: F32, ys: Strides, rows: int, scale: F32, shift: F32) -> None:
    for row in prange(rows):
        for c in range(len(scale)):
            y[position(ys, row, c)] = x[position(xs, row, c)] * scale[c] + shift[c]


@parallel_jit
def _backward(
    x: F32,
    xs: Strides,
    dy: F32,
    dys: Strides,
    dx: F32,
    dxs: Strides,
    rows: int,
    moments: tuple[F64, F64],
    gamma: F32,
    dgamma: F32,
    dbeta: F32,
) -> None:
    mean, inverse = moments
    for c in prange(len(gamma)):
        by_x, plain = 0.0, 0.0
        for row in range(rows):
            gradient = np.float64(dy[position(dys, row, c)])
            plain += gradient
            by_x += gradient * (np.float64(x[position(xs, row, c)]) - mean[c]) * inverse[c]
        dgamma[c] = by_x
        dbeta[c] = plain
        factor = np.float64(gamma[c]) * inverse[c]
        for row in range(rows):
            unit = (np.float64(x[position(xs, row, c)]) - mean[c]) * inverse[c]
            gradient = np.float64(dy[position(dys, row, c)])
            dx[position(dxs, row, c)] = factor * (gradient - (plain + unit * by_x) / rows)
