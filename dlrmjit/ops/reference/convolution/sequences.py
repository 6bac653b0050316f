"""The rule of the reference backend for convolutions of sequences of vectors (Caser)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.backend import FloatArray
from dlrmjit.ops.image_shapes import sequence_parameters

Gradients = Iterator[tuple[int, Any]]


def _windows(x: FloatArray, w: FloatArray) -> FloatArray:
    """Return the windows (N, P, E, h) of sequences (N, L, E) that filters of height h meet."""
    return np.lib.stride_tricks.sliding_window_view(x, w.shape[3], axis=1)


def _before(x: FloatArray, w: FloatArray, b: FloatArray) -> FloatArray:
    """Return the results (N, P, K) of filters at every position."""
    z: FloatArray = np.tensordot(_windows(x, w), w[:, :, 0], ((2, 3), (1, 2))) + b
    return z


def _forward(step: Step) -> FloatArray:
    x, (heights, positions) = step.values[0], sequence_parameters(step.values)
    parts = [np.maximum(_before(x, w, b).max(axis=1), 0) for w, b in heights]
    sums = np.einsum("vl,nle->nve", positions, x)
    return np.concatenate([*parts, sums.reshape(len(x), sums.shape[1] * sums.shape[2])], axis=1)


def _backward(step: Step, gradient: FloatArray) -> Gradients:
    x, (heights, positions) = step.values[0], sequence_parameters(step.values)
    dx, start = np.zeros_like(x), 0
    for i, (w, b) in enumerate(heights):
        z, dy = _before(x, w, b), gradient[:, start : start + len(b)]
        start += len(b)
        dz, first = np.zeros_like(z), z.argmax(axis=1)[:, None]
        dlargest = np.where(z.max(axis=1) > 0, dy, 0)
        np.put_along_axis(dz, first, dlargest[:, None], axis=1)
        yield 2 * i + 1, np.tensordot(dz, _windows(x, w), ((0, 1), (0, 1)))[:, :, None]
        yield 2 * i + 2, dlargest.sum(axis=0)
        for tap in range(w.shape[3]):
            dx[:, tap : tap + dz.shape[1]] += dz @ w[:, :, 0, tap]
    dsums = gradient[:, start:].reshape(len(x), len(positions), x.shape[2])
    yield len(step.values) - 1, np.einsum("nve,nle->vl", dsums, x)
    yield 0, dx + np.einsum("vl,nve->nle", positions, dsums)


def _positions_forward(step: Step) -> FloatArray:
    (rows,), length = step.values, step.options["length"]
    vectors: FloatArray = rows.reshape(len(rows) // length, length, rows.shape[2])
    return vectors


def _positions_backward(step: Step, gradient: FloatArray) -> Gradients:
    yield 0, gradient.reshape(step.values[0].shape)


RULES = (
    Rule("sequence_convolution", _forward, _backward),
    Rule("positions", _positions_forward, _positions_backward),
)
