"""A logistic regression of the training rows, by Newton's method.

A weight per category and dense feature has one best value, given how much it is shrunk. The
steps of a stochastic optimizer miss it for categories that are rare. Newton's method finds it, and
the shrinkage of each column follows from its weights (MacKay 1992): it is the number of weights
that the rows determine, over the sum of their squares.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dlrmjit.model.linear_start.design import F64, Design

_NEWTON_STEPS, _CG_STEPS = 8, 15
_ENOUGH = 1e-5  # of the loss per row, which a step must gain to be followed by another
_CG_TOLERANCE = 0.03  # of the gradient
_LEAST_SHRINKAGE, _MOST_SHRINKAGE = 1e-2, 1e4


def solve(design: Design) -> F64:
    """Return the weights: those of all tables, of the dense features, and the bias."""
    groups = design.groups
    last = int(groups[-1])
    shrinkage = np.ones(last + 1)
    shrinkage[last] = 0.0
    w, before = np.zeros(len(groups)), np.inf
    for _ in range(_NEWTON_STEPS):
        penalty = shrinkage[groups]
        w, curvature, loss = _newton_step(design, w, penalty)
        if before - loss < _ENOUGH * len(design.labels):
            break
        before = loss
        shrinkage[:last] = estimated_shrinkage(w, curvature, penalty, groups)[:last]
    return w


def estimated_shrinkage(w: F64, curvature: F64, penalty: F64, groups: NDArray[np.int64]) -> F64:
    """Return the shrinkage of each group that its weights (and their curvature) make likely."""
    determined = np.bincount(groups, curvature / (curvature + penalty + 1e-12))
    squares = np.bincount(groups, w * w)
    return np.clip(determined / np.maximum(squares, 1e-12), _LEAST_SHRINKAGE, _MOST_SHRINKAGE)


def _newton_step(design: Design, w: F64, penalty: F64) -> tuple[F64, F64, float]:
    """Return weights nearer to the best, the curvature of the loss by each, and the loss before."""
    z = design.scores(w)
    p = 1 / (1 + np.exp(-z))
    fits = design.weights * (np.logaddexp(0, z) - design.labels * z)
    loss = float(fits.sum() + (penalty * w * w).sum() / 2)
    gradient = design.transposed(design.weights * (p - design.labels)) + penalty * w
    bend = design.weights * np.maximum(p * (1 - p), 1e-6)
    curvature = design.transposed(bend, squared=True)
    step = conjugate_gradients(design, bend, penalty, gradient, curvature + penalty + 1e-9)
    return w - step, curvature, loss


def conjugate_gradients(
    design: Design, bend: F64, penalty: F64, gradient: F64, diagonal: F64
) -> F64:
    """Return the Newton step: the gradient divided by the Hessian, of which no entry is stored."""
    x, r = np.zeros_like(gradient), gradient.copy()
    z = r / diagonal
    d, rz = z, _dot(r, z)
    enough = _CG_TOLERANCE**2 * rz
    for _ in range(_CG_STEPS):
        if rz <= enough:
            break
        product = design.transposed(bend * design.scores(d)) + penalty * d
        alpha = rz / _dot(d, product)
        x, r = x + alpha * d, r - alpha * product
        z = r / diagonal
        rz, last = _dot(r, z), rz
        d = z + rz / last * d
    return x


def _dot(a: F64, b: F64) -> float:
    return float(np.einsum("i,i->", a, b))
