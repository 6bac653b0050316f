"""Cross layers with matrices, for the reference backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.backend import FloatArray
from dlrmjit.ops.reference.operands import forward_values, rounded_operand

Gradients = Iterator[tuple[int, Any]]


def _layers(step: Step) -> list[tuple[list[Any], FloatArray]]:
    """Return the weights, V and W or W alone, and the bias of each layer."""
    _, *parameters = step.values
    each = len(parameters) // step.options["layers"]
    groups = (parameters[i : i + each] for i in range(0, len(parameters), each))
    return [(group[:-1], group[-1]) for group in groups]


def _forward(step: Step) -> FloatArray:
    x0 = x = step.values[0]
    saved = []
    for weights, bias in _layers(step):
        operands = [x]
        for weight in weights:
            operands.append(rounded_operand(operands[-1], weight) @ forward_values(weight).T)
        product = operands.pop() + bias
        saved.append((operands, product))
        x = x0 * product + x
    step.memory["saved"] = saved
    result: FloatArray = x
    return result


def _backward(step: Step, gradient: FloatArray) -> Gradients:
    x0, layers, saved = step.values[0], _layers(step), step.memory["saved"]
    each = len(layers[0][0]) + 1
    dx0, dx = np.zeros_like(x0), gradient
    for i in reversed(range(len(layers))):
        weights, (operands, product) = layers[i][0], saved[i]
        dx0 = dx0 + dx * product
        d = dx * x0
        yield 1 + i * each + len(weights), d.sum(axis=0)
        for j in reversed(range(len(weights))):
            weight = weights[j]
            x, dz = (rounded_operand(values, weight) for values in (operands[j], d))
            d = dz @ forward_values(weight)
            yield 1 + i * each + j, dz.T @ x
        dx = dx + d
    yield 0, dx0 + dx


RULES = (Rule("cross", _forward, _backward),)
