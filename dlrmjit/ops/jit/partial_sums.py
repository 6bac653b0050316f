"""Sums of a part of the vectors for the compiled backend, gathered without storing vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from dlrmjit_kernels.embedding.pair_sums import sum_tables
from dlrmjit_kernels.runtime.buffers import aligned_empty

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.jit.join import array_rule
from dlrmjit.ops.jit.pairs import F32, LookedUp, PairGradient, SharedGradient
from dlrmjit.ops.partial_sums import RULE as ARRAY_RULE
from dlrmjit.ops.partial_sums import TOTALS


def _forward(step: Step) -> Any:
    x = step.values[0]
    if not isinstance(x, LookedUp):
        return ARRAY_RULE.forward(step)
    sums = step.cached("sums", lambda: aligned_empty((x.lookups.samples, x.tables.dim)))
    if step.options["kind"] == "sum":
        sum_tables(x.tables, x.lookups, sums)
        return sums
    pairs = np.empty(x.lookups.samples, np.float32)
    step.memory["longest"] = sum_tables(x.tables, x.lookups, sums, pairs)
    squares = pairs - (sums * sums).sum(axis=1) / 2  # -1/2 of those of all vectors
    return np.concatenate([sums, squares[:, None]], axis=1)


def _backward(step: Step, packed: F32) -> Iterator[tuple[int, Any]]:
    x = step.values[0]
    if not isinstance(x, LookedUp):
        yield from ARRAY_RULE.backward(step, packed)
    elif step.options["kind"] == "sum":
        yield 0, SharedGradient(np.array(packed))
    else:
        sums, upstream = np.array(packed[:, :-1], order="C"), np.array(packed[:, -1])
        yield 0, PairGradient(sums, upstream, step.memory["longest"])


RULES = (
    Rule("partial_sums", _forward, _backward),
    *(array_rule(rule.forward, rule.backward, rule.name) for rule in TOTALS),
)
