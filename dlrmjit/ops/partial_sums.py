"""Sums over some of a sample's vectors, of which the sums over all of them are made by addition.

Where a node only sums vectors, or the products of their pairs, a process with some of the vectors
can add up its own; what the node needs is the *total* (N, W) of these *partial* sums:

| kind of the node | partial sums of vectors v |
|---|---|
| ``sum`` | the sum of v: E columns |
| ``fm`` | the sum of v, and -1/2 of the sum of all squares: E + 1 columns |
| ``bi_interaction`` | the sum of v, and -1/2 of that of v^2: 2 E columns |

Rong et al. (arXiv 1909.04823) train sparse models so. The gradient of every vector follows from the
total sums and the gradient of the node's result: ``packed`` (N, W) has the sums of v, but of kind
``sum``, followed by that gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.array_rules import ArrayRule

Array = NDArray[Any]
_EXACT_SCALE, _EXACT_BELOW = 2.0**40, 2.0**22
KINDS = ("sum", "fm", "bi_interaction")
LAYER = "layer"
"""The kind of products of vectors with columns of a weight, which are summed like vectors."""
GATHERED = ("sum", "fm")
"""Kinds whose sums a backend may make without storing vectors."""


def columns_of(kind: str, dim: int) -> int:
    """Return W, the columns of the sums of vectors of width ``dim``."""
    return {"sum": dim, "fm": dim + 1, "bi_interaction": 2 * dim, LAYER: dim}[kind]


def partial_sums(vectors: Array, kind: str) -> Array:
    """Return the sums (N, W) of vectors (N, S, E)."""
    sums: Array = vectors.sum(axis=1)
    if kind == "sum":
        return sums
    axes = (1, 2) if kind == "fm" else 1
    squares = (vectors * vectors).sum(axis=axes).reshape(len(sums), -1)
    return np.concatenate([sums, squares / -2], axis=1)


def exact_sums(vectors: Array, kind: str) -> Array:
    """Return the sums of vectors (N, S, E) in fixed point (N, W + 1), int64, in units of 2^-40.

    Such sums may be added in any order. The sums of each vector are rounded once; the last column
    counts numbers that are not finite, or 2^22 and larger, which have no such form.
    """
    total = np.zeros((len(vectors), columns_of(kind, vectors.shape[2]) + 1), np.int64)
    for s in range(vectors.shape[1]):
        sums = partial_sums(vectors[:, s : s + 1], kind)
        fits = np.abs(sums) < _EXACT_BELOW
        scaled = np.where(fits, sums, 0).astype(np.float64) * _EXACT_SCALE
        total[:, :-1] += np.rint(scaled).astype(np.int64)
        total[:, -1] += (~fits).sum(axis=1)
    return total


def from_exact(total: Array, dtype: Any) -> Array:
    """Return sums (N, W) from those in fixed point (N, W + 1); NaN where some number has none."""
    sums: Array = (total[:, :-1] / _EXACT_SCALE).astype(dtype)
    sums[total[:, -1] > 0] = np.nan
    return sums


def vector_gradients(packed: Array, vectors: Array, kind: str) -> Array:
    """Return the gradients (N, S, E) of vectors (N, S, E)."""
    if kind == "sum":
        return np.repeat(packed[:, None], vectors.shape[1], axis=1)
    dim = vectors.shape[2]
    sums, upstream = packed[:, None, :dim], packed[:, None, dim:]
    gradients: Array = upstream * (sums - vectors)
    return gradients


def _fm_of_totals(totals: Array) -> Array:
    sums = totals[:, :-1]
    result: Array = (sums * sums).sum(axis=1, keepdims=True) / 2 + totals[:, -1:]
    return result


def _fm_gradient(gradient: Array, totals: Array) -> list[Array]:
    return [np.concatenate([gradient * totals[:, :-1], gradient], axis=1)]


def _pairs_of_totals(totals: Array) -> Array:
    sums, squares = np.split(totals, 2, axis=1)
    result: Array = sums * sums / 2 + squares
    return result


def _pairs_gradient(gradient: Array, totals: Array) -> list[Array]:
    sums, _ = np.split(totals, 2, axis=1)
    return [np.concatenate([gradient * sums, gradient], axis=1)]


TOTALS = (
    ArrayRule("fm_of_totals", _fm_of_totals, _fm_gradient),
    ArrayRule("bi_interaction_of_totals", _pairs_of_totals, _pairs_gradient),
)
"""The results of nodes from totals; of kind ``sum`` a total is the sum of one vector."""


def _forward(step: Step) -> Array:
    return partial_sums(step.values[0], step.options["kind"])


def _backward(step: Step, packed: Array) -> Iterator[tuple[int, Array]]:
    yield 0, vector_gradients(packed, step.values[0], step.options["kind"])


def _exact_forward(step: Step) -> Array:
    return exact_sums(step.values[0], step.options["kind"])


EXACT = Rule("exact_sums", _exact_forward, _backward)
"""As the next, but the sums are in fixed point."""

RULE = Rule("partial_sums", _forward, _backward)
"""From vectors to their sums; backward takes ``packed`` and not the gradient of the sums."""
