"""DLRM's interaction for the compiled backend, over vectors (N, F, E) in one block."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from dlrmjit_kernels.layers.interaction import (
    bind_interaction_backward,
    bind_interaction_forward,
    interaction_width,
)
from dlrmjit_kernels.matrix.matrix import Matrix

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.jit.join import JoinedBlock

Gradients = Iterator[tuple[int, Any]]


def _features(step: Step) -> tuple[int, int, bool]:
    """Return F, E, and whether the first vector is x."""
    buffers: JoinedBlock = step.options["buffers"]
    dim = buffers.shapes[-1][1]
    return buffers.values.shape[1] // dim, dim, len(buffers.shapes) > 1


def _forward(step: Step) -> Matrix:
    buffers: JoinedBlock = step.options["buffers"]
    buffers.fill(step.values)
    if step.options["kind"] == "cat":
        return buffers.joined
    n = len(buffers.values)
    features, dim, has_dense = _features(step)
    itself = step.options["itself"]
    width = interaction_width(features, dim, itself, has_dense)
    out = step.cached("out", lambda: Matrix.empty_blocked(n, width))
    vectors = buffers.values.reshape(n, features, dim)
    bind = partial(bind_interaction_forward, vectors, out, itself, has_dense)
    step.cached("forward", bind)()
    return out


def _backward(step: Step, gradient: Matrix) -> Gradients:
    buffers: JoinedBlock = step.options["buffers"]
    if step.options["kind"] == "cat":
        yield from buffers.split(step, gradient)
        return
    features, dim, has_dense = _features(step)
    shape = (len(buffers.values), features, dim)
    dT = buffers.gradient_buffer().reshape(shape)
    vectors, itself = buffers.values.reshape(shape), step.options["itself"]
    bind = partial(bind_interaction_backward, vectors, gradient, dT, itself, has_dense)
    step.cached_for("backward", (gradient,), bind)()
    yield from buffers.gradient_parts(step)


RULES = (Rule("interaction", _forward, _backward),)
