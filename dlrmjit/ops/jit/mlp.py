"""The multi-layer perceptron for the compiled backend: one kernel call per product, bound once.

A tape is replayed on the same buffers, so the kernels of a layer and their operands are the same
in every replay. They are bound once: a replay checks, looks up and wraps nothing, which for small
minibatches would take longer than some of the products.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from dlrmjit_kernels.layers.bf16_gemm import can_store_pairs
from dlrmjit_kernels.layers.elementwise import bind_activation_backward
from dlrmjit_kernels.layers.fully_connected import (
    Activations,
    activation_code,
    bind_backward_data,
    bind_backward_weights,
    bind_forward,
)
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.paired import Paired
from dlrmjit_kernels.runtime.buffers import aligned_empty
from dlrmjit_kernels.runtime.compile import Call
from dlrmjit_kernels.runtime.target import current_target
from dlrmjit_kernels.runtime.threads import get_threads

from dlrmjit.autograd.runs import Bound, BoundPart
from dlrmjit.autograd.tape import Step, bound_rule
from dlrmjit.ops.jit.bf16_rounding import is_rounded


class _Forward(NamedTuple):
    """The calls of all layers, and the input followed by the output of each layer.

    ``stored`` is what the backward pass needs of each activation: its output, or its derivatives.
    """

    calls: list[Call]
    layers: list[Any]
    stored: list[Any]


def _forward(step: Step) -> Bound:
    bound = _bound_forward(step)
    return Bound(bound.calls, bound.layers[-1])


def _backward(step: Step, gradient: Matrix) -> list[BoundPart]:
    operands = (*step.values, gradient)
    bind = partial(_bind_backward, step, gradient)
    return step.cached_for(("backward", get_threads()), operands, bind)


def _bound_forward(step: Step) -> _Forward:
    bind = partial(_bind_forward, step)
    return step.cached_for(("forward", get_threads()), step.values, bind)


def _bind_forward(step: Step) -> _Forward:
    x, *parameters = step.values
    bound = _Forward([], [x], [])
    for i, activation in enumerate(step.options["activations"]):
        weight, bias = parameters[2 * i : 2 * i + 2]
        y, slopes = _output(step, i, x.rows, weight.cols), None
        if activation_code(activation).has_slopes:
            make = partial(Matrix.empty_blocked, x.rows, weight.cols)
            slopes = step.cached(f"slopes{i}", make)
        operands = bound.layers[-1], weight, bias, y, activation, is_rounded(weight)
        bound.calls.append(bind_forward(*operands, slopes=slopes))
        bound.layers.append(y)
        bound.stored.append(slopes or y)
    return bound


def _output(step: Step, layer: int, rows: int, cols: int) -> Activations:
    out: Matrix | None = step.options.get("out")
    if out is not None and layer + 1 == len(step.options["activations"]):
        return out
    if _is_paired(step, layer):
        paired: Paired = step.cached(f"pairs{layer}", partial(Paired, rows, cols))
        return paired
    matrix: Matrix = step.cached(f"y{layer}", partial(Matrix.empty_blocked, rows, cols))
    return matrix


def _is_paired(step: Step, layer: int) -> bool:
    """Return whether only products on BF16 pairs read the output of a layer, and its gradient."""
    activations, weights = step.options["activations"], step.values[1::2]
    if layer + 1 == len(activations) or activations[layer] not in ("relu", "none"):
        return False
    weight, following = weights[layer : layer + 2]
    widths = weight.rows, weight.cols, following.cols
    both = is_rounded(weight) and is_rounded(following)
    return both and can_store_pairs(*widths, current_target())


def _bind_backward(step: Step, gradient: Matrix) -> list[BoundPart]:
    bound, last = _bound_forward(step), step.options["activations"][-1]
    parts, dx = list[BoundPart](), gradient
    if last != "none":
        code = activation_code(last)
        call = bind_activation_backward(bound.stored[-1], gradient, gradient, code)
        parts.append(BoundPart([call]))
    for i in reversed(range(len(bound.calls))):
        of_layer, dx = _bind_layer_backward(step, i, bound, dx)
        parts += of_layer
    return [*parts, BoundPart([], [(0, dx)])] if dx is not None else parts


def _bind_layer_backward(
    step: Step, layer: int, bound: _Forward, dz: Activations
) -> tuple[list[BoundPart], Any]:
    """Return the layer's calls, and the gradient of its input: None if it is not needed.

    Those of parameters come first: ranks sum them while they compute those of the input.
    """
    weight, x = step.values[1 + 2 * layer], bound.layers[layer]
    input_calls, dx = list[Call](), None
    if layer > 0 or step.wants(0):
        dx = _input_gradient(step, layer, x)
        below: Any = step.options["activations"][layer - 1] if layer > 0 else "none"
        mask = bound.stored[layer - 1] if below != "none" else None
        operands = dz, weight, dx, mask, is_rounded(weight)
        input_calls.append(bind_backward_data(*operands, activation=below))
    dw = step.cached(f"dw{layer}", partial(Matrix.empty_panels, x.cols, dz.cols))
    db = step.cached(f"db{layer}", partial(aligned_empty, dz.cols))
    call = bind_backward_weights(x, dz, dw, db, is_rounded(weight))
    of_weights = BoundPart([call], [(1 + 2 * layer, dw), (2 + 2 * layer, db)])
    return [of_weights, BoundPart(input_calls)], dx


def _input_gradient(step: Step, layer: int, x: Activations) -> Activations:
    if isinstance(x, Paired):
        paired: Paired = step.cached(f"dpairs{layer}", partial(Paired, x.rows, x.cols))
        return paired
    make = step.options.get("input_gradient")
    if layer == 0 and make is not None:
        dx: Matrix = step.cached("dx0", make)
        return dx
    matrix: Matrix = step.cached(f"dx{layer}", partial(Matrix.empty_blocked, x.rows, x.cols))
    return matrix


RULES = (bound_rule("mlp", _forward, _backward),)
