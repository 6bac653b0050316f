"""Rules over the rows of lists in NumPy, list by list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from dlrmjit.ops.backend import FloatArray
from dlrmjit.ops.random_masks import EPS
from dlrmjit.ops.reference.join import array_rule


def _slices(lists: FloatArray) -> Iterator[slice]:
    return (slice(start, stop) for start, stop in pairwise(lists.tolist()) if stop > start)


def set_mean_forward(x: FloatArray, lists: FloatArray) -> FloatArray:
    """Return the mean of the rows of each list, for each of its rows."""
    y = np.empty_like(x)
    for rows in _slices(lists):
        y[rows] = x[rows].mean(axis=0)
    return y


def set_mean_backward(
    gradient: FloatArray, x: FloatArray, lists: FloatArray
) -> list[FloatArray | None]:
    """Return the gradient of x."""
    return [set_mean_forward(gradient, lists), None]


def _layers_of_pairs(
    ab: FloatArray, parameters: Sequence[FloatArray]
) -> tuple[list[FloatArray], FloatArray]:
    """Return the results of all hidden layers of the pairs (n * n, h) of a list, and which count.

    A row is paired with the others only.
    """
    n, h = len(ab), ab.shape[1] // 2
    a, b = ab[:, :h], ab[:, h:]
    layers = [np.maximum(a[:, None] + b, 0).reshape(n * n, h)]
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        layers.append(np.maximum(layers[-1] @ weight.T + bias, 0))
    return layers, (1 - np.eye(n, dtype=ab.dtype)).reshape(n * n, 1)


def pair_mean_forward(ab: FloatArray, lists: FloatArray, *parameters: FloatArray) -> FloatArray:
    """Return the mean over the other rows of a list of the last layer of both, (N, K)."""
    width = len(parameters[-1]) if parameters else ab.shape[1] // 2
    y = np.zeros((len(ab), width), ab.dtype)
    for rows in _slices(lists):
        n = rows.stop - rows.start
        layers, counted = _layers_of_pairs(ab[rows], parameters)
        y[rows] = (layers[-1] * counted).reshape(n, n, width).sum(axis=1) / max(n - 1, 1)
    return y


def pair_mean_backward(
    gradient: FloatArray, ab: FloatArray, lists: FloatArray, *parameters: FloatArray
) -> list[FloatArray | None]:
    """Return the gradients of ``ab`` and of the parameters."""
    dab, changes = np.zeros_like(ab), [np.zeros_like(p) for p in parameters]
    for rows in _slices(lists):
        n, h = rows.stop - rows.start, ab.shape[1] // 2
        layers, counted = _layers_of_pairs(ab[rows], parameters)
        dz = np.repeat(gradient[rows], n, axis=0) * counted / max(n - 1, 1) * (layers[-1] > 0)
        for i in reversed(range(len(parameters) // 2)):
            changes[2 * i] += dz.T @ layers[i]
            changes[2 * i + 1] += dz.sum(axis=0)
            dz = dz @ parameters[2 * i] * (layers[i] > 0)
        pairs = dz.reshape(n, n, h)
        dab[rows] = np.concatenate([pairs.sum(axis=1), pairs.sum(axis=0)], axis=1)
    return [dab, None, *changes]


def _shares(q: FloatArray, k: FloatArray) -> FloatArray:
    scores = q @ k.T / np.sqrt(q.shape[1]).astype(q.dtype)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: FloatArray = powers / powers.sum(axis=1, keepdims=True)
    return shares


def attention_forward(qkv: FloatArray, lists: FloatArray) -> FloatArray:
    """Return softmax(Q K^T / sqrt(d)) V within each list, (N, d)."""
    y = np.empty((len(qkv), qkv.shape[1] // 3), qkv.dtype)
    for rows in _slices(lists):
        q, k, v = np.split(qkv[rows], 3, axis=1)
        y[rows] = _shares(q, k) @ v
    return y


def attention_backward(
    gradient: FloatArray, qkv: FloatArray, lists: FloatArray
) -> list[FloatArray | None]:
    """Return the gradient of ``qkv``."""
    dqkv = np.empty_like(qkv)
    for rows in _slices(lists):
        (q, k, v), dy = np.split(qkv[rows], 3, axis=1), gradient[rows]
        shares = _shares(q, k)
        dshares = dy @ v.T
        dscores = shares * (dshares - (dshares * shares).sum(axis=1, keepdims=True))
        dscores /= np.sqrt(q.shape[1]).astype(q.dtype)
        dqkv[rows] = np.concatenate([dscores @ k, dscores.T @ q, shares.T @ dy], axis=1)
    return [dqkv, None]


def _normalised(total: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return rows of mean 0 and variance 1, and the inverse deviations."""
    inverse = 1 / np.sqrt(total.var(axis=1, keepdims=True) + total.dtype.type(EPS))
    return (total - total.mean(axis=1, keepdims=True)) * inverse, inverse


def add_norm_forward(
    x: FloatArray, y: FloatArray, scale: FloatArray, shift: FloatArray
) -> FloatArray:
    """Return the normalised sum of x and y, scaled and shifted."""
    return _normalised(x + y)[0] * scale + shift


def add_norm_backward(
    gradient: FloatArray, x: FloatArray, y: FloatArray, scale: FloatArray, shift: FloatArray
) -> list[FloatArray | None]:
    """Return the gradients of both summands, of the scale and of the shift."""
    unit, inverse = _normalised(x + y)
    along = gradient * scale
    centred = along - along.mean(axis=1, keepdims=True)
    dx = inverse * (centred - unit * (along * unit).mean(axis=1, keepdims=True))
    return [dx, dx, (gradient * unit).sum(axis=0), gradient.sum(axis=0)]


RULES = (
    array_rule(set_mean_forward, set_mean_backward, "set_mean"),
    array_rule(pair_mean_forward, pair_mean_backward, "pair_mean"),
    array_rule(attention_forward, attention_backward, "attention"),
    array_rule(add_norm_forward, add_norm_backward, "add_norm"),
)
