"""Batch normalisation of the columns of a matrix, and ReLU (Ioffe and Szegedy 2015).

Sums over rows are in double precision, and in an order that depends on layouts alone: the bits
are the same for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.layers.column_ops import check_in_place, column_sums, run_column_op
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.row_access import load_row, strides_of
from dlrmjit_kernels.microkernels.column_ops import ColumnOp
from dlrmjit_kernels.runtime.operands import (
    FLOAT32,
    FLOAT64,
    check_array,
    check_disjoint,
    check_separate,
)

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def column_moments(x: Matrix, mean: F64, variance: F64) -> None:
    """Write the mean and biased variance of every column of ``x`` (N, C), N > 0; float64 (C,)."""
    if x.rows == 0:
        raise ShapeError("a batch without samples has no mean and no variance")
    _vector("mean", mean, x, FLOAT64, written=True)
    _vector("variance", variance, x, FLOAT64, written=True)
    check_disjoint("mean", mean, variance=variance)
    data = check_array("x", x.data, FLOAT32, 1)
    first = np.empty(x.cols, np.float32)
    load_row(data, 0, strides_of(x.layout), x.cols, first, 0)
    # Moments of x - x[0]: without a large mean, the difference of squares does not cancel.
    shifted, squares = column_sums(ColumnOp.MOMENTS, (x,), first) / x.rows
    np.maximum(squares - shifted * shifted, 0.0, out=variance)
    np.add(first, shifted, out=mean)


def normalise_relu(x: Matrix, y: Matrix, scale: F32, shift: F32) -> None:
    """``y = max(x * scale + shift, 0)`` by column; may be in place."""
    _vector("scale", scale, x, FLOAT32)
    _vector("shift", shift, x, FLOAT32)
    check_disjoint("y", y.data, scale=scale, shift=shift)
    run_column_op(ColumnOp.NORMALISE, (x, y), np.stack([scale, shift]))


def batch_norm_backward(
    x: Matrix, y: Matrix, dy: Matrix, mean: F64, inverse: F64, gamma: F32, dgamma: F32, dbeta: F32
) -> None:
    """Write the gradients of ``y = relu(gamma * (x - mean) * inverse + beta)``.

    ``mean`` and ``inverse = 1 / sqrt(variance + eps)`` are those of x's columns. Writes dgamma
    and dbeta, and dx over dy.
    """
    _vector("mean", mean, x, FLOAT64)
    _vector("inverse", inverse, x, FLOAT64)
    _vector("gamma", gamma, x, FLOAT32)
    _vector("dgamma", dgamma, x, FLOAT32, written=True)
    _vector("dbeta", dbeta, x, FLOAT32, written=True)
    check_in_place((x, y), dy)
    written = {"dgamma": dgamma, "dbeta": dbeta, "dy": dy.data}
    check_separate(written, gamma=gamma, mean=mean, inverse=inverse)
    for name in ("dgamma", "dbeta"):
        check_disjoint(name, written[name], x=x.data, y=y.data)
    middle = mean.astype(np.float32)
    dbeta[...], by_x = plain, _ = column_sums(ColumnOp.GRADIENT_SUMS, (x, y, dy), middle)
    dgamma[...] = by_x * inverse
    factor = gamma * inverse
    parts = (middle, factor, factor * plain / x.rows, factor * inverse**2 * by_x / x.rows)
    run_column_op(ColumnOp.INPUT_GRADIENT, (x, y, dy), np.array(parts, np.float32))


def _vector(
    name: str, vector: NDArray[Any], x: Matrix, dtype: np.dtype[Any], written: bool = False
) -> None:
    """Raise ShapeError unless ``vector`` has one number per column of ``x``."""
    check_array(name, vector, dtype, (x.cols,), written)
