"""Results side by side, and rules of NumPy functions, for the reference backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.array_rules import RULES as ARRAY_RULES
from dlrmjit.ops.array_rules import product_rule
from dlrmjit.ops.backend import ArrayBackward, ArrayForward, FloatArray
from dlrmjit.precision import SplitArray

Gradients = Iterator[tuple[int, Any]]


class NoBlock(NamedTuple):
    """No buffers: each rule allocates its result."""

    parts: tuple[None, ...]
    joined_gradient: None = None


def _concat_forward(step: Step) -> FloatArray:
    flat = [x.reshape(len(x), int(np.prod(x.shape[1:]))) for x in step.values]
    return np.concatenate(flat, axis=1)


def _concat_backward(step: Step, gradient: FloatArray) -> Gradients:
    start = 0
    for i, x in enumerate(step.values):
        end = start + int(np.prod(x.shape[1:]))
        if step.wants(i):
            yield i, gradient[:, start:end].reshape(x.shape)
        start = end


def array_rule(forward: ArrayForward, backward: ArrayBackward, name: str = "arrays") -> Rule:
    """Return the rule of two functions of arrays."""

    def run(step: Step) -> FloatArray:
        result: FloatArray = forward(*_arrays(step.values))
        return result

    def differentiate(step: Step, gradient: FloatArray) -> Gradients:
        arrays = _arrays(step.values)
        for i, part in enumerate(backward(gradient, *arrays)):
            if part is not None and step.wants(i):
                yield i, np.asarray(part, arrays[i].dtype)

    return Rule(name, run, differentiate)


def _arrays(values: Sequence[Any]) -> list[FloatArray]:
    """Return arrays; of Split-BF16 weights, the values that forward and backward use."""
    return [x.truncated() if isinstance(x, SplitArray) else x for x in values]


def _product_forward(step: Step) -> FloatArray:
    return product_rule(step.options["dim"]).forward(*step.values)


def _product_backward(step: Step, gradient: FloatArray) -> Gradients:
    parts = product_rule(step.options["dim"]).backward(gradient, *step.values)
    yield from enumerate(parts)


RULES = (
    Rule("concat", _concat_forward, _concat_backward),
    Rule("product", _product_forward, _product_backward),
    *(array_rule(rule.forward, rule.backward, rule.name) for rule in ARRAY_RULES),
)
