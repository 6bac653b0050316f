"""Rules over the rows of lists for the compiled backend, on matrices in rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from dlrmjit_kernels.lists.add_norm import add_norm_backward, add_norm_forward
from dlrmjit_kernels.lists.attention import attention_backward, attention_forward, shares_size
from dlrmjit_kernels.lists.pair_mean import pair_mean_backward, pair_mean_forward
from dlrmjit_kernels.lists.pair_plan import inputs_and_outputs
from dlrmjit_kernels.lists.set_mean import set_mean
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.runtime.buffers import aligned_empty
from dlrmjit_kernels.runtime.workspace import Workspace
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.jit.join import array_of, rows_of, store_gradient
from dlrmjit.ops.random_masks import EPS

Gradients = Iterator[tuple[int, Any]]
F32 = NDArray[np.float32]


def _rows(value: Any) -> F32:
    """Return a matrix as a contiguous array, without a copy if it is stored so."""
    return np.ascontiguousarray(rows_of(value))


def _result(step: Step, name: str, *shape: int) -> tuple[F32, Matrix]:
    """Return a buffer of this step, and the matrix over it."""
    array = step.cached(name, lambda: aligned_empty(shape))
    return array, step.cached(f"{name} matrix", lambda: Matrix.view(array))


def _set_mean_forward(step: Step) -> Matrix:
    x, lists = _rows(step.values[0]), step.values[1]
    y, result = _result(step, "y", *x.shape)
    set_mean(x, lists, y)
    return result


def _set_mean_backward(step: Step, gradient: Matrix) -> Gradients:
    dy = _rows(gradient)
    dx, result = _result(step, "dx", *dy.shape)
    set_mean(dy, step.values[1], dx)
    yield 0, result


def _pair_layers(step: Step) -> tuple[list[F32 | Matrix], list[F32]]:
    """Return weights and biases of the further layers."""
    numbers = range(2, len(step.values))
    weights = [step.values[i] for i in numbers[::2]]
    weights = [
        weight if isinstance(weight, Matrix) else array_of(step, i)
        for i, weight in zip(numbers[::2], weights, strict=True)
    ]
    return weights, [array_of(step, i) for i in numbers[1::2]]


def _pair_mean_forward(step: Step) -> Matrix:
    ab, lists = _rows(step.values[0]), step.values[1]
    weights, biases = step.memory["layers"] = _pair_layers(step)
    y, result = _result(step, "y", len(ab), len(biases[-1]) if biases else ab.shape[1] // 2)
    pair_mean_forward(ab, lists, weights, biases, y)
    return result


def _pair_mean_backward(step: Step, gradient: Matrix) -> Gradients:
    ab, lists = _rows(step.values[0]), step.values[1]
    weights, biases = step.memory["layers"]
    dab, result = _result(step, "dab", *ab.shape)
    shapes = [inputs_and_outputs(weight)[::-1] for weight in weights]
    changes = [np.empty(s, np.float32) for s in shapes], [np.empty_like(x) for x in biases]
    pair_mean_backward(ab, lists, weights, biases, _rows(gradient), dab, *changes)
    for i, (dw, db) in enumerate(zip(*changes, strict=True)):
        yield 2 + 2 * i, store_gradient(step, 2 + 2 * i, dw)
        yield 3 + 2 * i, db
    yield 0, result


def _shares(step: Step) -> F32:
    """Return the buffer of shares, which grows with the largest lists."""
    workspace = step.cached("shares", Workspace)
    return workspace.get("shares", shares_size(np.diff(step.values[1])), np.float32)


def _attention_forward(step: Step) -> Matrix:
    qkv, lists = _rows(step.values[0]), step.values[1]
    y, result = _result(step, "y", len(qkv), qkv.shape[1] // 3)
    attention_forward(qkv, lists, y, _shares(step))
    return result


def _attention_backward(step: Step, gradient: Matrix) -> Gradients:
    qkv, lists = _rows(step.values[0]), step.values[1]
    dqkv, result = _result(step, "dqkv", *qkv.shape)
    attention_backward(qkv, lists, _shares(step), _rows(gradient), dqkv)
    yield 0, result


def _add_norm_forward(step: Step) -> Matrix:
    (a, b), (gamma, beta) = map(_rows, step.values[:2]), step.values[2:]
    y, result = _result(step, "y", *a.shape)
    add_norm_forward(a, b, gamma, beta, y, *_moments(step, a.shape), EPS)
    return result


def _moments(step: Step, shape: tuple[int, ...]) -> tuple[F32, F32]:
    """Return the buffers of normalised rows and of inverse deviations."""
    unit = step.cached("unit", lambda: aligned_empty(shape))
    return unit, step.cached("inverse", lambda: aligned_empty(shape[0]))


def _add_norm_backward(step: Step, gradient: Matrix) -> Gradients:
    dy, gamma = _rows(gradient), step.values[2]
    dx, result = _result(step, "dx", *dy.shape)
    dgamma, dbeta = (
        step.cached(name, lambda: np.empty_like(gamma)) for name in ("dgamma", "dbeta")
    )
    unit, inverse = _moments(step, dy.shape)
    add_norm_backward(dy, unit, inverse, gamma, dx, dgamma, dbeta, EPS)
    yield 2, dgamma
    yield 3, dbeta
    yield 0, result
    yield 1, result


RULES = (
    Rule("set_mean", _set_mean_forward, _set_mean_backward),
    Rule("pair_mean", _pair_mean_forward, _pair_mean_backward),
    Rule("attention", _attention_forward, _attention_backward),
    Rule("add_norm", _add_norm_forward, _add_norm_backward),
)
