"""Dot interaction: the inner products of all pairs of feature vectors of a sample.

The kernels read the feature block that the bottom MLP and the lookups wrote, and write the
(blocked) input of the top MLP, so nothing is copied between the three. Only one sample's
F x F products exist at a time, in a scratch of the thread that works on it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.calls.calls import bind
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.layers.interaction_loops import store_backward, store_forward
from dlrmjit_kernels.layers.interaction_plan import sample_plan
from dlrmjit_kernels.matrix.matrix import Matrix, check_written
from dlrmjit_kernels.matrix.row_access import strides_of
from dlrmjit_kernels.runtime.compile import Call
from dlrmjit_kernels.runtime.operands import FLOAT32, check_array, check_disjoint
from dlrmjit_kernels.runtime.target import current_target

F32 = NDArray[np.float32]


def interaction_width(features: int, width: int, itself: bool = False, head: bool = True) -> int:
    """Return the columns of the output: one per pair of F features, E more with ``head``.

    ``itself`` counts the pairs of a feature with itself; the head is the first feature as it is.
    """
    pairs = features * (features + 1) // 2 if itself else features * (features - 1) // 2
    return (width if head else 0) + pairs


def interaction_forward(
    features: F32, out: Matrix, itself: bool = False, head: bool = True
) -> None:
    """Write ``[x, Z[i > j]]`` of every sample, where ``Z = T @ T.T`` and ``x = T[0]``.

    Parameters
    ----------
    features
        T, shape (N, F, E), C-contiguous float32.
    out
        (N, interaction_width(F, E, itself, head)); pairs are in row-major order of the lower
        triangle.
    itself
        Include the diagonal in the triangle (``i >= j``).
    head
        Write x before the pairs; otherwise T has embeddings only, and the output pairs only.

    Raises
    ------
    ShapeError
        If the shapes do not match each other.
    """
    bind_interaction_forward(features, out, itself, head)()


def bind_interaction_forward(
    features: F32, out: Matrix, itself: bool = False, head: bool = True
) -> Call:
    """Check the operands of :func:`interaction_forward` and return it as a call to repeat."""
    features = _check(features, out, itself, head)
    check_written("out", out)
    check_disjoint("out", out.data, features=features)
    plan = sample_plan(*features.shape[1:], itself, current_target())
    calls = (plan.squares, plan.forward, plan.fold)
    rows = (out.data, strides_of(out.layout), out.cols)
    return bind(store_forward, features, rows, features.shape[2] if head else 0, calls, plan.sizes)


def interaction_backward(
    features: F32,
    dout: Matrix,
    dfeatures: F32,
    itself: bool = False,
    head: bool = True,
) -> None:
    """Write ``dT = A @ T`` and, with ``head``, add ``dx`` into ``dT[0]``; the forward's inverse.

    A is symmetric with ``A[i, j] = A[j, i] = dZ[i > j]`` and, with ``itself``, twice ``dZ[i, i]``
    on its diagonal. Shapes are those of :func:`interaction_forward`; ``dfeatures`` is written in
    full and must not overlap ``features``.

    Raises
    ------
    ShapeError
        If the shapes do not match each other.
    """
    bind_interaction_backward(features, dout, dfeatures, itself, head)()


def bind_interaction_backward(
    features: F32,
    dout: Matrix,
    dfeatures: F32,
    itself: bool = False,
    head: bool = True,
) -> Call:
    """Check the operands of :func:`interaction_backward` and return it as a call to repeat."""
    features = _check(features, dout, itself, head)
    dfeatures = check_array("dfeatures", dfeatures, FLOAT32, features.shape, written=True)
    data = check_array("dout", dout.data, FLOAT32, 1)
    check_disjoint("dfeatures", dfeatures, features=features, dout=data)
    plan = sample_plan(*features.shape[1:], itself, current_target())
    calls = (plan.unfold, plan.backward)
    rows, columns = (data, strides_of(dout.layout), dout.cols), features.shape[2]
    operands = features, rows, columns if head else 0, dfeatures, calls, plan.sizes
    return bind(store_backward, *operands)


def _check(features: F32, out: Matrix, itself: bool, head: bool) -> F32:
    """Return the features for the kernels, after checking them and the matrix of outputs."""
    features = check_array("features (N, F, E)", features, FLOAT32, 3)
    if 0 in features.shape[1:]:
        raise ShapeError(
            f"features must have vectors of at least one element, not {features.shape}"
        )
    samples, count, width = features.shape
    expected = (samples, interaction_width(count, width, itself, head))
    if (out.rows, out.cols) != expected:
        raise ShapeError(
            f"features {features.shape} interact into {expected} (rows, columns), "
            f"but the given matrix is {(out.rows, out.cols)}"
        )
    return features
