"""Operations in NumPy: the reference backend's, and the compiled one's where it has no kernel.

Each is a pair of functions: the result from arrays, and the gradients of the arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class ArrayRule(NamedTuple):
    """A forward function of arrays, and a backward function of the gradient and the arrays."""

    name: str
    forward: Callable[..., Array]
    backward: Callable[..., Sequence[Array | None]]


def _sum_forward(*arrays: Array) -> Array:
    first, *others = (x.sum(axis=1) if x.ndim == 3 else x for x in arrays)
    total: Array = first + others[0] if others else first.copy()
    for x in others[1:]:
        total += x
    return total


def _sum_backward(gradient: Array, *arrays: Array) -> list[Array]:
    return [_spread(gradient, x) for x in arrays]


def _spread(gradient: Array, x: Array) -> Array:
    if x.ndim == 1:  # a bias
        bias: Array = gradient.sum(axis=0)
        return bias
    return np.repeat(gradient[:, None], x.shape[1], axis=1) if x.ndim == 3 else gradient


def _bi_interaction_forward(vectors: Array) -> Array:
    total = vectors.sum(axis=1)
    result: Array = (total * total - (vectors * vectors).sum(axis=1)) / 2
    return result


def _bi_interaction_backward(gradient: Array, vectors: Array) -> list[Array]:
    others = vectors.sum(axis=1, keepdims=True) - vectors
    return [gradient[:, None] * others]


def _fm_forward(vectors: Array) -> Array:
    result: Array = _bi_interaction_forward(vectors).sum(axis=1, keepdims=True)
    return result


def _cross_vector_forward(x0: Array, *parameters: Array) -> Array:
    x = x0
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        x = x0 * (x * weight).sum(axis=1, keepdims=True) + bias + x
    return x


def _cross_vector_backward(gradient: Array, x0: Array, *parameters: Array) -> list[Array]:
    weights, biases = parameters[::2], parameters[1::2]
    layers = [x0]
    for weight, bias in zip(weights, biases, strict=True):
        x = layers[-1]
        layers.append(x0 * (x * weight).sum(axis=1, keepdims=True) + bias + x)
    dx0, dx = np.zeros_like(x0), gradient
    gradients: list[Array] = []
    for weight, x in zip(reversed(weights), reversed(layers[:-1]), strict=True):
        ds = (dx * x0).sum(axis=1, keepdims=True)
        gradients[:0] = [(ds * x).sum(axis=0, keepdims=True), dx.sum(axis=0)]
        dx0 += dx * (x * weight).sum(axis=1, keepdims=True)
        dx = dx + ds * weight
    return [dx0 + dx, *gradients]


def product_rule(dim: int) -> ArrayRule:
    """Return the product per sample of matrices (F1, D) and (D, F2), D being ``dim``."""

    def matrices(a: Array, b: Array) -> tuple[Array, Array]:
        n = len(a)
        return a.reshape(n, a.shape[1] // dim, dim), b.reshape(n, dim, b.shape[1] // dim)

    def forward(a: Array, b: Array) -> Array:
        x, y = matrices(a, b)
        return _flat(x @ y)

    def backward(gradient: Array, a: Array, b: Array) -> list[Array]:
        x, y = matrices(a, b)
        d = gradient.reshape(len(a), x.shape[1], y.shape[2])
        return [_flat(d @ y.transpose(0, 2, 1)), _flat(x.transpose(0, 2, 1) @ d)]

    return ArrayRule("product", forward, backward)


def _flat(x: Array) -> Array:
    return x.reshape(len(x), x.shape[1] * x.shape[2])


def _fm_backward(gradient: Array, vectors: Array) -> list[Array]:
    return [gradient[:, :, None] * (vectors.sum(axis=1, keepdims=True) - vectors)]


RULES = (
    ArrayRule("sum", _sum_forward, _sum_backward),
    ArrayRule("fm", _fm_forward, _fm_backward),
    ArrayRule("bi_interaction", _bi_interaction_forward, _bi_interaction_backward),
    ArrayRule("cross_vector", _cross_vector_forward, _cross_vector_backward),
)
