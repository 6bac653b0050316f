"""DLRM's interaction for the compiled backend, over vectors (N, F, E) in one block."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from dlrmjit_kernels.layers.interaction import (
    bind_interaction_backward,
    bind_interaction_forward,
    interaction_width,
)
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.runtime.compile import Call

from dlrmjit.autograd.runs import Bound, BoundPart
from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.jit.join import JoinedBlock

Gradients = Iterator[tuple[int, Any]]


class _Shape(NamedTuple):
    """N, F and E of the vectors, and whether the first is x."""

    vectors: tuple[int, int, int]
    has_dense: bool


def _shape(buffers: JoinedBlock) -> _Shape:
    dim = buffers.shapes[0][-1]
    n, width = buffers.values.shape
    return _Shape((n, width // dim, dim), len(buffers.shapes[0]) == 1)


def _forward(step: Step) -> Matrix:
    buffers: JoinedBlock = step.options["buffers"]
    buffers.fill(step.values)
    bound = _bound_forward(step, buffers)
    for call in bound.calls:
        call()
    result: Matrix = bound.value
    return result


def _bind(step: Step) -> Bound | None:
    buffers: JoinedBlock = step.options["buffers"]
    return _bound_forward(step, buffers) if buffers.has(step.values) else None


def _bound_forward(step: Step, buffers: JoinedBlock) -> Bound:
    if step.options["kind"] == "cat":
        return Bound([], buffers.joined)
    return step.cached("forward", partial(_bind_forward, step, buffers))


def _bind_forward(step: Step, buffers: JoinedBlock) -> Bound:
    shape, has_dense = _shape(buffers)
    itself = step.options["itself"]
    width = interaction_width(shape[1], shape[2], itself, has_dense)
    out = Matrix.empty_blocked(shape[0], width)
    vectors = buffers.values.reshape(shape)
    return Bound([bind_interaction_forward(vectors, out, itself, has_dense)], out)


def _backward(step: Step, gradient: Matrix) -> Gradients:
    buffers: JoinedBlock = step.options["buffers"]
    if step.options["kind"] == "cat":
        yield from buffers.split(step, gradient)
        return
    step.cached_for("backward", (gradient,), partial(_bind_backward, step, buffers, gradient))()
    yield from buffers.gradients(step)


def _backward_parts(step: Step, gradient: Matrix) -> list[BoundPart] | None:
    buffers: JoinedBlock = step.options["buffers"]
    if step.options["kind"] == "cat":
        return [BoundPart([], buffers.gradients(step))] if buffers.has_gradient(gradient) else None
    bind = partial(_bind_backward, step, buffers, gradient)
    call = step.cached_for("backward", (gradient,), bind)
    return [BoundPart([call], buffers.gradients(step))]


def _bind_backward(step: Step, buffers: JoinedBlock, gradient: Matrix) -> Call:
    shape, has_dense = _shape(buffers)
    dT = buffers.gradient_buffer().reshape(shape)
    vectors, itself = buffers.values.reshape(shape), step.options["itself"]
    return bind_interaction_backward(vectors, gradient, dT, itself, has_dense)


RULES = (Rule("interaction", _forward, _backward, _bind, _backward_parts),)
