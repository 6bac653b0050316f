"""Batch normalisation of the columns of a matrix, and an activation (Ioffe and Szegedy 2015).

Sums over rows are in double precision, and in an order that depends on layouts alone: the bits
are the same for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.layers.column_ops import check_in_place, column_sums, run_column_op
from dlrmjit_kernels.layers.fully_connected import activation_code
from dlrmjit_kernels.matrix.matrix import Matrix, check_apart
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
    normalise(x, y, scale, shift, "relu")


def normalise(
    x: Matrix,
    y: Matrix,
    scale: F32,
    shift: F32,
    activation: str = "none",
    slopes: Matrix | None = None,
) -> None:
    """``y = activation(x * scale + shift)`` by column; may be in place.

    ``silu`` writes its derivatives to ``slopes``; other activations have none. Raises ShapeError
    for incompatible operands.
    """
    code = activation_code(activation)
    if code.has_slopes != (slopes is not None):
        raise ShapeError(f"the activation {activation!r} and slopes do not belong together")
    _vector("scale", scale, x, FLOAT32)
    _vector("shift", shift, x, FLOAT32)
    check_disjoint("y", y.data, scale=scale, shift=shift)
    check_in_place((x,), y)
    matrices: tuple[Matrix, ...] = (x, y)
    if slopes is not None:
        check_disjoint("slopes", slopes.data, scale=scale, shift=shift)
        check_apart("slopes", slopes, x=x, y=y)
        matrices = (x, y, slopes)
    run_column_op(ColumnOp.NORMALISE, matrices, np.stack([scale, shift]), code)


def normalise_add(
    x: Matrix, residual: Matrix, y: Matrix, scale: F32, shift: F32, activation: str = "none"
) -> None:
    """``y = activation(x * scale + shift + residual)`` by column; may be in place.

    Raises ShapeError for incompatible operands, and an activation that stores slopes.
    """
    code = activation_code(activation)
    if code.has_slopes:
        raise ShapeError(f"the activation {activation!r} cannot follow a sum; take another")
    _vector("scale", scale, x, FLOAT32)
    _vector("shift", shift, x, FLOAT32)
    check_disjoint("y", y.data, scale=scale, shift=shift)
    check_in_place((x, residual), y)
    run_column_op(ColumnOp.NORMALISE_ADD, (x, residual, y), np.stack([scale, shift]), code)


def batch_norm_backward(
    x: Matrix,
    y: Matrix,
    dy: Matrix,
    mean: F64,
    inverse: F64,
    gamma: F32,
    dgamma: F32,
    dbeta: F32,
    activation: str = "relu",
) -> None:
    """Write the gradients of ``y = activation(gamma * (x - mean) * inverse + beta)``.

    ``mean`` and ``inverse = 1 / sqrt(variance + eps)`` are those of x's columns. Writes dgamma
    and dbeta, and dx over dy. For ``silu``, ``y`` are its derivatives.
    """
    _vector("dgamma", dgamma, x, FLOAT32, written=True)
    _vector("dbeta", dbeta, x, FLOAT32, written=True)
    written = {"dgamma": dgamma, "dbeta": dbeta, "dy": dy.data}
    check_separate(written, gamma=gamma, mean=mean, inverse=inverse)
    for name in ("dgamma", "dbeta"):
        check_disjoint(name, written[name], x=x.data, y=y.data)
    _vector("inverse", inverse, x, FLOAT64)
    _vector("gamma", gamma, x, FLOAT32)
    sums = gradient_sums(x, y, dy, mean, activation)
    dbeta[...] = sums[0]
    dgamma[...] = sums[1] * inverse
    input_gradient(x, y, dy, mean, inverse, gamma, sums, x.rows, activation)


def gradient_sums(
    x: Matrix, y: Matrix, dy: Matrix, mean: F64, activation: str = "relu"
) -> NDArray[np.float64]:
    """Return the sums over rows of dz and of ``dz * (x - mean)``, (2, C), dz before the activation.

    ``y`` is the output of the activation, for ``silu`` its derivatives.
    """
    _vector("mean", mean, x, FLOAT64)
    check_in_place((x, y), dy)
    middle, code = mean.astype(np.float32), activation_code(activation)
    return column_sums(ColumnOp.GRADIENT_SUMS, (x, y, dy), middle, code)


def input_gradient(
    x: Matrix,
    y: Matrix,
    dy: Matrix,
    mean: F64,
    inverse: F64,
    gamma: F32,
    sums: F64,
    rows: int,
    activation: str = "relu",
) -> None:
    """Write dx over dy, given the sums of :func:`gradient_sums` over a batch of ``rows`` samples.

    x may be a part of the batch.
    """
    _vector("mean", mean, x, FLOAT64)
    _vector("inverse", inverse, x, FLOAT64)
    _vector("gamma", gamma, x, FLOAT32)
    check_array("sums", sums, FLOAT64, (2, x.cols))
    check_in_place((x, y), dy)
    check_disjoint("dy", dy.data, gamma=gamma, mean=mean, inverse=inverse, sums=sums)
    factor, (plain, by_x) = gamma * inverse, sums
    parts = (mean, factor, factor * plain / rows, factor * inverse**2 * by_x / rows)
    constants, code = np.array(parts, np.float32), activation_code(activation)
    run_column_op(ColumnOp.INPUT_GRADIENT, (x, y, dy), constants, code)


def _vector(
    name: str, vector: NDArray[Any], x: Matrix, dtype: np.dtype[Any], written: bool = False
) -> None:
    """Raise ShapeError unless ``vector`` has one number per column of ``x``."""
    check_array(name, vector, dtype, (x.cols,), written)
