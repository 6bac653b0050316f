"""The multi-layer perceptron for the compiled backend: one kernel call per product, bound once.

A tape is replayed on the same buffers, so the kernels of a layer and their operands are the same
in every replay. They are bound once: a replay checks, looks up and wraps nothing, which for small
minibatches would take longer than some of the products.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from dlrmjit_kernels.layers.elementwise import bind_relu_backward, bind_sigmoid_backward
from dlrmjit_kernels.layers.fully_connected import (
    bind_backward_data,
    bind_backward_weights,
    bind_forward,
)
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.runtime.buffers import aligned_empty
from dlrmjit_kernels.runtime.compile import Call
from dlrmjit_kernels.runtime.threads import get_threads

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.jit.bf16_rounding import is_rounded


class _Forward(NamedTuple):
    """The calls of all layers, and the input followed by the output of each layer."""

    calls: list[Call]
    layers: list[Matrix]


class _LayerBackward(NamedTuple):
    """The calls of one layer, and the gradients of its parameters that they complete."""

    calls: list[Call]
    gradients: tuple[tuple[int, Any], ...]


class _Backward(NamedTuple):
    """All layers, last first, and the gradient of the input, if it is needed."""

    layers: list[_LayerBackward]
    dx: Matrix | None


def _forward(step: Step) -> Matrix:
    bound = _bound_forward(step)
    for call in bound.calls:
        call()
    return bound.layers[-1]


def _backward(step: Step, gradient: Matrix) -> Iterator[tuple[int, Any]]:
    operands = (*step.values, gradient)
    bind = partial(_bind_backward, step, gradient)
    bound = step.cached_for(f"backward {get_threads()}", operands, bind)
    for layer in bound.layers:
        for call in layer.calls:
            call()
        yield from layer.gradients
    if bound.dx is not None:
        yield 0, bound.dx


def _bound_forward(step: Step) -> _Forward:
    bind = partial(_bind_forward, step)
    return step.cached_for(f"forward {get_threads()}", step.values, bind)


def _bind_forward(step: Step) -> _Forward:
    x, *parameters = step.values
    calls, layers = [], [x]
    for i, activation in enumerate(step.options["activations"]):
        weight, bias = parameters[2 * i : 2 * i + 2]
        y = _output(step, i, x.rows, weight.cols)
        calls.append(bind_forward(layers[-1], weight, bias, y, activation, is_rounded(weight)))
        layers.append(y)
    return _Forward(calls, layers)


def _output(step: Step, layer: int, rows: int, cols: int) -> Matrix:
    out: Matrix | None = step.options.get("out")
    if out is not None and layer + 1 == len(step.options["activations"]):
        return out
    return step.cached(f"y{layer}", lambda: Matrix.empty_blocked(rows, cols))


def _bind_backward(step: Step, gradient: Matrix) -> _Backward:
    outputs, activations = _bound_forward(step).layers, step.options["activations"]
    layers, dx = [], gradient
    for i in reversed(range(len(activations))):
        layer, dx = _bind_layer_backward(step, i, outputs[i], dx)
        layers.append(layer)
    layers[0].calls[:0] = _through_activation(outputs[-1], gradient, activations[-1])
    return _Backward(layers, dx)


def _bind_layer_backward(
    step: Step, layer: int, x: Matrix, dz: Matrix
) -> tuple[_LayerBackward, Any]:
    """Return the layer's calls, and the gradient of its input: None if it is not needed."""
    weight, activations = step.values[1 + 2 * layer], step.options["activations"]
    calls, dx = [], None
    if layer > 0 or step.wants(0):
        dx = _input_gradient(step, layer, x)
        mask = x if layer > 0 and activations[layer - 1] == "relu" else None
        calls.append(bind_backward_data(dz, weight, dx, mask, is_rounded(weight)))
    dw = step.cached(f"dw{layer}", partial(Matrix.empty_panels, x.cols, dz.cols))
    db = step.cached(f"db{layer}", partial(aligned_empty, dz.cols))
    calls.append(bind_backward_weights(x, dz, dw, db, is_rounded(weight)))
    return _LayerBackward(calls, ((1 + 2 * layer, dw), (2 + 2 * layer, db))), dx


def _through_activation(y: Matrix, dy: Matrix, activation: str) -> list[Call]:
    if activation == "relu":
        return [bind_relu_backward(y, dy, dy)]
    return [bind_sigmoid_backward(y, dy, dy)] if activation == "sigmoid" else []


def _input_gradient(step: Step, layer: int, x: Matrix) -> Matrix:
    make = step.options.get("input_gradient")
    if layer == 0 and make is not None:
        dx: Matrix = step.cached("dx0", make)
        return dx
    return step.cached(f"dx{layer}", partial(Matrix.empty_blocked, x.rows, x.cols))


RULES = (Rule("mlp", _forward, _backward),)
