"""Batch normalisation of the columns of a matrix, and an activation (Ioffe and Szegedy 2015).

Sums over rows are in double precision, and in an order that depends on layouts alone: the bits
are the same for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.layers.column_ops import (
    ColumnSums,
    bind_column_op,
    check_in_place,
    column_sums,
)
from dlrmjit_kernels.layers.fully_connected import activation_code
from dlrmjit_kernels.layers.norm_gradient import NormGradient
from dlrmjit_kernels.matrix.matrix import Matrix, check_apart
from dlrmjit_kernels.matrix.row_access import load_row, strides_of
from dlrmjit_kernels.microkernels.column_ops import ColumnOp
from dlrmjit_kernels.runtime.compile import Call
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
    Moments(x).write(mean, variance)


class Moments:
    """The means and biased variances of the columns of a matrix (N, C), bound to it; N > 0.

    Raises ShapeError for a matrix without rows.
    """

    def __init__(self, x: Matrix) -> None:
        if x.rows == 0:
            raise ShapeError("a batch without samples has no mean and no variance")
        self._x, self._first = x, np.empty(x.cols, np.float32)
        self._data = check_array("x", x.data, FLOAT32, 1)
        self._strides = strides_of(x.layout)
        self._sums = ColumnSums(ColumnOp.MOMENTS, (x,), self._first)

    def write(self, mean: F64, variance: F64) -> None:
        """Write both, float64 (C,)."""
        x = self._x
        _vector("mean", mean, x, FLOAT64, written=True)
        _vector("variance", variance, x, FLOAT64, written=True)
        check_disjoint("mean", mean, variance=variance)
        load_row(self._data, 0, self._strides, x.cols, self._first, 0)
        # Moments of x - x[0]: without a large mean, the difference of squares does not cancel.
        shifted, squares = self._sums.add() / x.rows
        np.maximum(squares - shifted * shifted, 0.0, out=variance)
        np.add(self._first, shifted, out=mean)


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
    bind_normalise(x, y, _affine(x, y, scale, shift), activation, slopes)()


def normalise_add(
    x: Matrix, residual: Matrix, y: Matrix, scale: F32, shift: F32, activation: str = "none"
) -> None:
    """``y = activation(x * scale + shift + residual)`` by column; may be in place.

    Raises ShapeError for incompatible operands, and an activation that stores slopes.
    """
    bind_normalise(x, y, _affine(x, y, scale, shift), activation, residual=residual)()


def _affine(x: Matrix, y: Matrix, scale: F32, shift: F32) -> F32:
    _vector("scale", scale, x, FLOAT32)
    _vector("shift", shift, x, FLOAT32)
    check_disjoint("y", y.data, scale=scale, shift=shift)
    return np.stack([scale, shift])


def bind_normalise(
    x: Matrix,
    y: Matrix,
    affine: F32,
    activation: str = "none",
    slopes: Matrix | None = None,
    residual: Matrix | None = None,
) -> Call:
    """Return ``y = activation(x * affine[0] + affine[1] + residual)`` as a call to repeat.

    ``affine`` is float32 (2, C); its contents may change. It may be in place. Raises ShapeError as
    :func:`normalise` does.
    """
    code = activation_code(activation)
    check_array("affine", affine, FLOAT32, (2, x.cols))
    check_disjoint("y", y.data, affine=affine)
    if residual is not None:
        if code.has_slopes:
            raise ShapeError(f"the activation {activation!r} cannot follow a sum; take another")
        return bind_column_op(ColumnOp.NORMALISE_ADD, (x, residual, y), affine, activation=code)
    if code.has_slopes != (slopes is not None):
        raise ShapeError(f"the activation {activation!r} and slopes do not belong together")
    check_in_place((x,), y)
    matrices: tuple[Matrix, ...] = (x, y)
    if slopes is not None:
        check_disjoint("slopes", slopes.data, affine=affine)
        check_apart("slopes", slopes, x=x, y=y)
        matrices = (x, y, slopes)
    return bind_column_op(ColumnOp.NORMALISE, matrices, affine, activation=code)


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
    _vector("mean", mean, x, FLOAT64)
    gradient = NormGradient(x, y, dy, activation_code(activation))
    sums = gradient.whole(mean, inverse, gamma, x.rows)
    dbeta[...] = sums[0]
    dgamma[...] = sums[1] * inverse


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
    check_disjoint("dy", dy.data, gamma=gamma, mean=mean, inverse=inverse, sums=sums)
    gradient = NormGradient(x, y, dy, activation_code(activation))
    gradient.apply(mean, inverse, gamma, sums, rows)


def _vector(
    name: str, vector: NDArray[Any], x: Matrix, dtype: np.dtype[Any], written: bool = False
) -> None:
    """Raise ShapeError unless ``vector`` has one number per column of ``x``."""
    check_array(name, vector, dtype, (x.cols,), written)
