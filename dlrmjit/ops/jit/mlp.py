"""The multi-layer perceptron for the compiled backend: one kernel call per product, bound once.

Which kernels a layer runs, and on which buffers, follows from what the rule is applied to, and a
tape is replayed on the same buffers. So a replay finds its calls ready: nothing is checked,
looked up or wrapped again, which for small minibatches takes longer than some of the products.
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
    """The calls of all layers; their input and outputs."""

    calls: list[Call]
    layers: list[Matrix]


class _LayerBackward(NamedTuple):
    """The calls of one layer, and its parameters' gradients, which are complete behind them."""

    calls: list[Call]
    gradients: tuple[tuple[int, Any], ...]


class _Backward(NamedTuple):
    """All layers, last first, and the gradient of the input, where it is wanted."""

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
    bound = step.keep_for(f"backward {get_threads()}", operands, bind)
    for layer in bound.layers:
        for call in layer.calls:
            call()
        yield from layer.gradients
    if bound.dx is not None:
        yield 0, bound.dx


def _bound_forward(step: Step) -> _Forward:
    bind = partial(_bind_forward, step)
    return step.keep_for(f"forward {get_threads()}", step.values, bind)


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
    placed: Matrix | None = step.options.get("out")
    if placed is not None and layer + 1 == len(step.options["activations"]):
        return placed
    return step.keep(f"y{layer}", lambda: Matrix.empty_blocked(rows, cols))


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
    """The layer's calls, and the gradient of its input: None where it is not wanted."""
    weight, activations = step.values[1 + 2 * layer], step.options["activations"]
    calls, dx = [], None
    if layer > 0 or step.wants(0):
        dx = _input_gradient(step, layer, x)
        mask = x if layer > 0 and activations[layer - 1] == "relu" else None
        calls.append(bind_backward_data(dz, weight, dx, mask, is_rounded(weight)))
    dw = step.keep(f"dw{layer}", partial(Matrix.empty_panels, x.cols, dz.cols))
    db = step.keep(f"db{layer}", partial(aligned_empty, dz.cols))
    calls.append(bind_backward_weights(x, dz, dw, db, is_rounded(weight)))
    return _LayerBackward(calls, ((1 + 2 * layer, dw), (2 + 2 * layer, db))), dx


def _through_activation(y: Matrix, dy: Matrix, activation: str) -> list[Call]:
    if activation == "relu":
        return [bind_relu_backward(y, dy, dy)]
    return [bind_sigmoid_backward(y, dy, dy)] if activation == "sigmoid" else []


def _input_gradient(step: Step, layer: int, x: Matrix) -> Matrix:
    place = step.options.get("input_gradient")
    if layer == 0 and place is not None:
        placed: Matrix = step.keep("dx0", place)
        return placed
    return step.keep(f"dx{layer}", partial(Matrix.empty_blocked, x.rows, x.cols))


RULES = (Rule("mlp", _forward, _backward),)
