"""Cross layers with matrices for the compiled backend: products whose epilogues do all the rest.

Every product is bound once, as in :mod:`.mlp`. All matrices of the layers' width are blocked
alike, the input too: it is copied if another operation stored it in rows.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from dlrmjit_kernels.layers.cross import (
    CrossEpilogue,
    backward_epilogue,
    bind_start,
    forward_epilogue,
    last_epilogue,
)
from dlrmjit_kernels.layers.fully_connected import (
    bind_backward_data,
    bind_backward_weights,
    bind_forward,
)
from dlrmjit_kernels.matrix.axes import view_of
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.relayout import bind_relayout
from dlrmjit_kernels.runtime.buffers import aligned_empty
from dlrmjit_kernels.runtime.compile import Call
from dlrmjit_kernels.runtime.threads import get_threads

from dlrmjit.autograd.runs import Bound, BoundPart
from dlrmjit.autograd.tape import Step, bound_rule
from dlrmjit.ops.jit.bf16_rounding import is_rounded


class _Layer(NamedTuple):
    """One layer after forward: operands of its products, x first, and x0's factor z."""

    operands: list[Matrix]
    z: Matrix


class _Forward(NamedTuple):
    """The calls of all layers, x0 in blocks, the layers, and the result."""

    calls: list[Call]
    x0: Matrix
    layers: list[_Layer]
    result: Matrix


class _Backward(NamedTuple):
    """The parts of all layers, last first, and epilogues that must stay alive."""

    parts: list[BoundPart]
    epilogues: list[CrossEpilogue]


def _weights(step: Step) -> list[tuple[list[Any], Any]]:
    """Return the weights, V and W or W alone, and the bias of each layer."""
    _, *parameters = step.values
    each = len(parameters) // step.options["layers"]
    groups = (parameters[i : i + each] for i in range(0, len(parameters), each))
    return [(group[:-1], group[-1]) for group in groups]


def _blocked(step: Step, name: str, columns: int) -> Matrix:
    rows = step.values[0].rows
    return step.cached(name, partial(Matrix.empty_blocked, rows, columns))


def _in_blocks(step: Step, name: str, x: Matrix) -> tuple[Matrix, list[Call]]:
    """Return ``x`` in the layout of all others, and how to copy it there."""
    copy = _blocked(step, name, x.cols)
    if x.layout == copy.layout:
        return x, []
    if x.rows == 0:
        return copy, []
    relayout = bind_relayout(view_of(x.layout), view_of(copy.layout))
    return copy, [partial(relayout, x.address, copy.address)]


def _forward(step: Step) -> Bound:
    bound = _bound_forward(step)
    return Bound(bound.calls, bound.result)


def _bound_forward(step: Step) -> _Forward:
    bind = partial(_bind_forward, step)
    return step.cached_for(f"forward {get_threads()}", step.values, bind)


def _bind_forward(step: Step) -> _Forward:
    x0, calls = _in_blocks(step, "x0", step.values[0])
    x, layers = x0, list[_Layer]()
    for i, (weights, bias) in enumerate(_weights(step)):
        operands, z = [x], _blocked(step, f"z{i}", x0.cols)
        for j, weight in enumerate(weights[:-1]):
            h = _blocked(step, f"h{i}.{j}", weight.cols)
            calls.append(bind_forward(operands[-1], weight, None, h, "none", is_rounded(weight)))
            operands.append(h)
        following, last = _blocked(step, f"x{i + 1}", x0.cols), weights[-1]
        epilogue = step.cached_for(f"epilogue {i}", (x0, x), partial(forward_epilogue, x0, x, z))
        rounded = is_rounded(last)
        calls.append(bind_forward(operands[-1], last, bias, following, "none", rounded, epilogue))
        layers.append(_Layer(operands, z))
        x = following
    return _Forward(calls, x0, layers, x)


def _backward(step: Step, gradient: Matrix) -> list[BoundPart]:
    operands = (*step.values, gradient)
    bind = partial(_bind_backward, step, gradient)
    return step.cached_for(f"backward {get_threads()}", operands, bind).parts


def _bind_backward(step: Step, gradient: Matrix) -> _Backward:
    forward = _bound_forward(step)
    x0, sums, following = forward.x0, *(_blocked(step, n, gradient.cols) for n in ("dx0", "dx"))
    dx, start = _in_blocks(step, "dx", gradient)
    dz = _blocked(step, "dz0", x0.cols)
    start.append(bind_start(dx, x0, forward.layers[-1].z, dz, sums))
    parts, epilogues = [BoundPart(start)], list[CrossEpilogue]()
    count = len(forward.layers)
    for i in reversed(range(count)):
        if i > 0:
            z = forward.layers[i - 1].z
            epilogue = backward_epilogue(x0, dx, z, sums, following)
            # with one weight, dz is an operand of the product that writes the next one
            number = (count - i) % 2 if len(forward.layers[i].operands) == 1 else 0
            result = _blocked(step, f"dz{number}", x0.cols)
            dx = following
        else:
            epilogue, result = last_epilogue(dx, sums), _input_gradient(step, x0)
        parts.append(_bind_layer_backward(step, i, forward.layers[i], dz, (result, epilogue)))
        epilogues.append(epilogue)
        dz = result
    if step.wants(0):
        parts.append(BoundPart([], [(0, dz)]))
    return _Backward(parts, epilogues)


def _bind_layer_backward(
    step: Step, i: int, layer: _Layer, dz: Matrix, onward: tuple[Matrix, CrossEpilogue]
) -> BoundPart:
    """Return the products of one layer, the last of which has an epilogue and its own result."""
    weights, bias = _weights(step)[i]
    first = 1 + i * (len(weights) + 1)
    db = step.cached(f"db{i}", partial(aligned_empty, bias.size))
    calls, gradients = list[Call](), list[tuple[int, Any]]([(first + len(weights), db)])
    for j in reversed(range(len(weights))):
        weight, x = weights[j], layer.operands[j]
        dw = step.cached(f"dw{i}.{j}", partial(Matrix.empty_panels, weight.rows, weight.cols))
        sums = db if j + 1 == len(weights) else None
        calls.append(bind_backward_weights(x, dz, dw, sums, is_rounded(weight)))
        gradients.append((first + j, dw))
        if j > 0:
            dx = _blocked(step, f"dh{j}", weight.rows)
            calls.append(bind_backward_data(dz, weight, dx, None, is_rounded(weight)))
            dz = dx
        elif i > 0 or step.wants(0):
            result, epilogue = onward
            rounded = is_rounded(weight)
            calls.append(bind_backward_data(dz, weight, result, None, rounded, epilogue))
    return BoundPart(calls, gradients)


def _input_gradient(step: Step, x0: Matrix) -> Matrix:
    """Return the gradient's buffer: where it is wanted, or in blocks."""
    make = step.options.get("input_gradient")
    if make is None:
        return _blocked(step, "gradient", x0.cols)
    dx: Matrix = step.cached("gradient", make)
    return dx


RULES = (bound_rule("cross", _forward, _backward),)
