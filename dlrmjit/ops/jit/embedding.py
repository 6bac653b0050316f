"""The embedding bag of the compiled backend, with weights of the batch and of the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from dlrmjit_kernels.embedding import lookup_weights
from dlrmjit_kernels.embedding.forward import BoundPool
from dlrmjit_kernels.embedding.int8 import Int8Tables
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.tables import EmbeddingTables
from dlrmjit_kernels.runtime.buffers import aligned_empty
from numpy.typing import NDArray

from dlrmjit.autograd.runs import Bound, BoundPart
from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.jit.mixed_tables import MixedBagGradient, MixedTables
from dlrmjit.ops.jit.optimizers import BagGradient
from dlrmjit.ops.jit.pairs import LookedUp, PairGradient, SharedGradient

Gradients = Iterator[tuple[int, Any]]
F32 = NDArray[np.float32]


def _forward(step: Step) -> F32 | LookedUp:
    """Pool the rows of ``tables``; a third input has weights of rows, tables of one column.

    Where only sums of the vectors are wanted, the operation that sums them gathers plain rows.
    """
    tables, lookups, *columns = step.values
    if _are_summed(step):
        return LookedUp(tables, lookups)
    pooled = _pooled(step)
    if columns:
        inside = lookups.within(tables.row_counts, tables.bounds)
        step.memory["weighted"] = lookup_weights.weighted(columns[0], inside)
        parts: Sequence[tuple[Any, Lookups]] = [(tables, step.memory["weighted"])]
    else:
        parts = _parts(step)
    for group, part in parts:
        if isinstance(group, Int8Tables):
            group.pool(part, pooled)
        else:
            _bound_pool(step, group, part, pooled)(part)
    return pooled


def _bind(step: Step) -> Bound | None:
    """Bind the pooling of tables of one width, of which only the lookups differ."""
    tables, lookups, *columns = step.values
    if columns or not isinstance(tables, EmbeddingTables) or _are_summed(step):
        return None
    pooled = _pooled(step)
    bound = _bound_pool(step, tables, lookups, pooled)
    bound.accept(lookups)
    return Bound(bound.calls, pooled, {1: bound.accept})


def _pooled(step: Step) -> F32:
    """Return the array of the pooled vectors."""
    tables, lookups = step.values[:2]
    pooled: F32 | None = step.options.get("out")
    if pooled is None:
        shape = (lookups.samples, len(tables), tables.dim)
        pooled = step.cached("pooled", lambda: aligned_empty(shape))
    return pooled


def _bound_pool(step: Step, tables: Any, lookups: Lookups, pooled: F32) -> BoundPool:
    operands = tables, pooled
    make = partial(BoundPool, tables, lookups, pooled, _pooling(step))
    bound: BoundPool = step.cached_for(("pool", *lookups.form), operands, make)
    return bound


def _are_summed(step: Step) -> bool:
    """Return whether only sums of the vectors are wanted, and bags are sums of plain rows."""
    return bool(step.options.get("summed")) and _are_plain(step)


def _are_plain(step: Step) -> bool:
    """Return whether bags are sums of rows of one width, without weights."""
    tables, lookups, *columns = step.values
    is_sum = _pooling(step) == "sum" and not columns and lookups.weights is None
    return is_sum and not isinstance(tables, MixedTables)


def _pooling(step: Step) -> str:
    return str(step.options.get("pooling", "sum"))


def _parts(step: Step) -> Sequence[tuple[Any, Lookups]]:
    """Return the tables and lookups of each width, split once per batch."""
    tables, lookups = step.values
    if not isinstance(tables, MixedTables):
        return [(tables, lookups)]

    def split() -> Sequence[tuple[Any, Lookups]]:
        offsets = step.memory.get("offsets")
        if offsets is None or offsets[0].shape[1] != lookups.samples + 1:
            offsets = step.memory["offsets"] = tables.offsets(lookups.samples)
        parts: Sequence[tuple[Any, Lookups]] = tables.split(lookups, offsets)
        return parts

    return step.cached_for("parts", (tables, lookups), split)


def _backward(step: Step, gradient: Any) -> Gradients:
    tables, lookups, *columns = step.values
    if isinstance(gradient, (SharedGradient, PairGradient)):
        yield 0, LookedUp(tables, lookups).gradient(gradient)
    elif columns:
        yield from _weighted_backward(step, tables, lookups, gradient)
    elif isinstance(tables, MixedTables):
        parts = (BagGradient(part, gradient, _pooling(step)) for _, part in _parts(step))
        yield 0, MixedBagGradient(tuple(parts))
    else:
        yield 0, BagGradient(lookups, gradient, _pooling(step))


def _bind_backward(step: Step, gradient: Any) -> list[BoundPart] | None:
    """Return the same gradient object for every batch, whose lookups are replaced."""
    tables, lookups, *columns = step.values
    if columns or not isinstance(tables, EmbeddingTables):
        return None
    if isinstance(gradient, (SharedGradient, PairGradient)):
        return None
    make = partial(BagGradient, lookups, gradient, _pooling(step))
    bag = step.cached_for("bag gradient", (gradient,), make)
    accept = partial(_replace_lookups, bag)
    accept(lookups)
    return [BoundPart([], [(0, bag)], {1: accept})]


def _replace_lookups(bag: BagGradient, lookups: Lookups) -> bool:
    bag.lookups = lookups
    return True


def _weighted_backward(step: Step, tables: Any, lookups: Lookups, gradient: F32) -> Gradients:
    """Yield the gradients of rows and of their weights; both use the values before the update."""
    inside = lookups.within(tables.row_counts, tables.bounds)
    of_weights = lookup_weights.weight_gradient(tables, inside, gradient, _pooling(step))
    yield 0, BagGradient(step.memory["weighted"], gradient, _pooling(step))
    ones = np.ones((*gradient.shape[:2], 1), np.float32)
    yield 2, BagGradient(Lookups(inside.indices, inside.offsets, weights=of_weights), ones)


RULES = (Rule("embedding_bag", _forward, _backward, _bind, _bind_backward),)
