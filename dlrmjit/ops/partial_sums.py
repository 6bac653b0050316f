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
KINDS = ("sum", "fm", "bi_interaction")
GATHERED = ("sum", "fm")
"""Kinds whose sums a backend may make without storing vectors."""


def columns_of(kind: str, dim: int) -> int:
    """Return W, the columns of the sums of vectors of width ``dim``."""
    return {"sum": dim, "fm": dim + 1, "bi_interaction": 2 * dim}[kind]


def partial_sums(vectors: Array, kind: str) -> Array:
    """Return the sums (N, W) of vectors (N, S, E)."""
    sums: Array = vectors.sum(axis=1)
    if kind == "sum":
        return sums
    axes = (1, 2) if kind == "fm" else 1
    squares = (vectors * vectors).sum(axis=axes).reshape(len(sums), -1)
    return np.concatenate([sums, squares / -2], axis=1)


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


RULE = Rule("partial_sums", _forward, _backward)
"""From vectors to their sums; backward takes ``packed`` and not the gradient of the sums."""
