"""Dot interaction: every pair of feature vectors of a sample meets in one inner product.

The kernels read the feature block that the bottom MLP and the lookups wrote, and write the
(blocked) input of the top MLP, so nothing is copied between the three. Only one sample's
F x F products exist at a time, in a scratch of the thread that works on it.
"""

from __future__ import annotations

import numpy as np
from numba import prange
from numpy.typing import NDArray

from dlrmjit.errors import ShapeError
from dlrmjit_kernels.compile import jit, parallel_jit
from dlrmjit_kernels.matrix import Matrix
from dlrmjit_kernels.rows import Strides, load_columns, row_start, store_columns, strides_of

F32 = NDArray[np.float32]

SAMPLES_PER_TASK = 16
"""Samples that share one scratch: fixed, so that tasks do not depend on the thread count."""


def interaction_width(features: int, width: int, itself: bool = False) -> int:
    """Columns of the output: E and one per pair of the F features (with itself, or without)."""
    pairs = features * (features + 1) // 2 if itself else features * (features - 1) // 2
    return width + pairs


def interaction_forward(features: F32, out: Matrix, itself: bool = False) -> None:
    """Write ``[x, Z[i > j]]`` of every sample, where ``Z = T @ T.T`` and ``x = T[0]``.

    Parameters
    ----------
    features
        T, shape (N, F, E), C-contiguous float32.
    out
        (N, interaction_width(F, E, itself)); pairs are in row-major order of the lower triangle.
    itself
        Take the diagonal into the triangle (``i >= j``).

    Raises
    ------
    ShapeError
        If the shapes do not fit each other.
    """
    _check(features, out, itself)
    _forward(features, out.data, strides_of(out.layout), int(itself))


def interaction_backward(features: F32, dout: Matrix, dfeatures: F32, itself: bool = False) -> None:
    """Write ``dT = A @ T`` and add ``dx`` into ``dT[0]``; inverse bookkeeping of the forward.

    A is symmetric with ``A[i, j] = A[j, i] = dZ[i > j]`` and, with ``itself``, twice ``dZ[i, i]``
    on its diagonal. Shapes are those of :func:`interaction_forward`; ``dfeatures`` is written in
    full and must not overlap ``features``.

    Raises
    ------
    ShapeError
        If the shapes do not fit each other.
    """
    _check(features, dout, itself)
    if dfeatures.shape != features.shape:
        raise ShapeError(
            f"the features are {features.shape}, but their gradient is {dfeatures.shape}"
        )
    _backward(features, dout.data, strides_of(dout.layout), dfeatures, int(itself))


def _check(features: F32, out: Matrix, itself: bool) -> None:
    if features.ndim != 3 or features.dtype != np.float32 or not features.flags.c_contiguous:
        raise ShapeError(
            "the interaction takes features as a C-contiguous float32 block (N, F, E), "
            f"not {features.dtype} {features.shape}"
        )
    samples, count, width = features.shape
    expected = (samples, interaction_width(count, width, itself))
    if (out.rows, out.cols) != expected:
        raise ShapeError(
            f"features {features.shape} interact into {expected} (rows, columns), "
            f"but the matrix given is {(out.rows, out.cols)}"
        )


@parallel_jit
def _forward(T: F32, out: F32, strides: Strides, itself: int) -> None:
    N, F, E = T.shape
    for task in prange((N + SAMPLES_PER_TASK - 1) // SAMPLES_PER_TASK):
        transposed = np.empty((E, F), np.float32)
        products = np.empty(F, np.float32)
        for n in range(task * SAMPLES_PER_TASK, min(N, (task + 1) * SAMPLES_PER_TASK)):
            _forward_sample(T[n], transposed, products, out, row_start(strides, n), strides, itself)


@jit
def _forward_sample(
    T: F32, transposed: F32, products: F32, out: F32, start: int, strides: Strides, itself: int
) -> None:
    F, E = T.shape
    _transpose(T, transposed)
    store_columns(out, start, strides, 0, T[0], E)
    column = E
    for i in range(F):
        pairs = i + itself
        _pair_products(T[i], transposed, pairs, products)
        store_columns(out, start, strides, column, products, pairs)
        column += pairs


@jit
def _transpose(T: F32, transposed: F32) -> None:
    for i in range(T.shape[0]):
        for e in range(T.shape[1]):
            transposed[e, i] = T[i, e]


@jit
def _pair_products(row: F32, transposed: F32, pairs: int, products: F32) -> None:
    """products[j] = row . T[j] for j < pairs; transposed, so that j runs along a vector."""
    products[:pairs] = np.float32(0)
    for e in range(row.shape[0]):
        for j in range(pairs):
            products[j] += row[e] * transposed[e, j]


@parallel_jit
def _backward(T: F32, dout: F32, strides: Strides, dT: F32, itself: int) -> None:
    N, F, _E = T.shape
    for task in prange((N + SAMPLES_PER_TASK - 1) // SAMPLES_PER_TASK):
        symmetric = np.zeros((F, F), np.float32)
        for n in range(task * SAMPLES_PER_TASK, min(N, (task + 1) * SAMPLES_PER_TASK)):
            _backward_sample(T[n], dout, row_start(strides, n), strides, dT[n], symmetric, itself)


@jit
def _backward_sample(
    T: F32, dout: F32, start: int, strides: Strides, dT: F32, symmetric: F32, itself: int
) -> None:
    _F, E = T.shape
    _unfold_triangle(dout, start, strides, E, symmetric, itself)
    load_columns(dout, start, strides, 0, dT[0], E)
    dT[1:] = np.float32(0)
    _multiply_add(symmetric, T, dT)


@jit
def _unfold_triangle(
    dout: F32, start: int, strides: Strides, column: int, symmetric: F32, itself: int
) -> None:
    """Symmetric A from a row of the triangle; without ``itself`` the diagonal stays zero."""
    F = symmetric.shape[0]
    for i in range(F):
        pairs = i + itself
        load_columns(dout, start, strides, column, symmetric[i], pairs)
        column += pairs
        if itself:
            symmetric[i, i] *= np.float32(2)
        for j in range(i):
            symmetric[j, i] = symmetric[i, j]


@jit
def _multiply_add(A: F32, T: F32, dT: F32) -> None:
    """dT += A @ T, along E."""
    F, E = T.shape
    for i in range(F):
        for j in range(F):
            for e in range(E):
                dT[i, e] += A[i, j] * T[j, e]
