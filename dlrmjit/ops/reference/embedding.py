"""The embedding bag of the reference backend, in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.backend import FloatArray, Lookups
from dlrmjit.ops.reference.operands import forward_values
from dlrmjit.ops.reference.optimizers import ReferenceBagGradient, lookup_scales

Gradients = Iterator[tuple[int, Any]]


def _forward(step: Step) -> FloatArray:
    """Pool the rows of ``tables``; a third input has weights of rows, tables of one column."""
    tables, lookups, *columns = step.values
    weighted = step.memory["weighted"] = _weighted(columns[0], lookups) if columns else lookups
    offsets, scales = lookups.offsets, lookup_scales(weighted, _pooling(step))
    count, n = offsets.shape[0], offsets.shape[1] - 1
    pooled = np.zeros((n, count, tables.dim), tables.table(0).dtype)
    for s in range(count):
        samples = np.repeat(np.arange(n), np.diff(offsets[s]))
        part, width = slice(offsets[s, 0], offsets[s, -1]), tables.dims[s]
        rows = forward_values(tables.table(s)[lookups.indices[part]])
        if scales is not None:
            rows = rows * scales[part, None].astype(rows.dtype)
        np.add.at(pooled[:, s, :width], samples, rows)
    return pooled


def _pooling(step: Step) -> str:
    return str(step.options.get("pooling", "sum"))


def _weighted(columns: Any, lookups: Lookups) -> Lookups:
    """Return lookups whose weights are multiplied by those of their rows."""
    indices, offsets, weights = lookups
    own = np.ones(len(indices), columns.table(0).dtype)
    for s in range(len(offsets)):
        part = slice(offsets[s, 0], offsets[s, -1])
        own[part] = columns.table(s)[indices[part], 0]
    return Lookups(indices, offsets, own if weights is None else own * weights)


def _backward(step: Step, gradient: FloatArray) -> Gradients:
    tables, lookups, *columns = step.values
    if not columns:  # the forward operation need not have run
        yield 0, ReferenceBagGradient(lookups, gradient, _pooling(step))
    else:
        of_weights = _weight_gradient(tables, lookups, gradient, _pooling(step))
        yield 0, ReferenceBagGradient(step.memory["weighted"], gradient, _pooling(step))
        ones = np.ones((*gradient.shape[:2], 1), gradient.dtype)
        lookups = Lookups(lookups.indices, lookups.offsets, of_weights)
        yield 2, ReferenceBagGradient(lookups, ones)


def _weight_gradient(
    tables: Any, lookups: Lookups, gradient: FloatArray, pooling: str
) -> FloatArray:
    """Return the gradient (NS,) of the weight of the row of every lookup."""
    indices, offsets, _ = lookups
    found = np.zeros(len(indices), gradient.dtype)
    for s in range(len(offsets)):
        part = slice(offsets[s, 0], offsets[s, -1])
        rows = forward_values(tables.table(s)[indices[part]])
        of_bags = np.repeat(gradient[:, s], np.diff(offsets[s]), axis=0)
        found[part] = (rows * of_bags).sum(axis=1)
    scales = lookup_scales(lookups, pooling)
    return found if scales is None else found * scales.astype(found.dtype)


RULES = (Rule("embedding_bag", _forward, _backward),)
