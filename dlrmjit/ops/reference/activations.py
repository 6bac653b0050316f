"""Activations of the reference backend, and gradients before them."""

from __future__ import annotations

import numpy as np

from dlrmjit.ops.backend import FloatArray


def activate(z: FloatArray, activation: str) -> tuple[FloatArray, FloatArray]:
    """Return an activation of ``z``, and what :func:`before_activation` needs of it."""
    if activation == "relu":
        y: FloatArray = np.maximum(z, 0)
        return y, y
    if activation == "tanh":
        y = np.tanh(z)
        return y, y
    if activation == "none":
        return z, z
    s = sigmoid(z)
    return (s, s) if activation == "sigmoid" else (z * s, s + z * s * (1 - s))


def before_activation(dy: FloatArray, stored: FloatArray, activation: str) -> FloatArray:
    """Return the gradient before an activation, given the gradient dy after it.

    ``stored`` is its output; of ``silu``, its derivative.
    """
    if activation == "none":
        return dy
    before: FloatArray = dy * _slope(stored, activation)
    return before


def _slope(stored: FloatArray, activation: str) -> FloatArray:
    if activation == "relu":
        return stored > 0
    if activation == "silu":
        return stored
    slope: FloatArray = stored * (1 - stored) if activation == "sigmoid" else 1 - stored * stored
    return slope


def sigmoid(z: FloatArray) -> FloatArray:
    """Return the logistic function in the type of ``z``."""
    e = np.exp(-np.abs(z))
    result: FloatArray = np.where(z >= 0, 1 / (1 + e), e / (1 + e)).astype(z.dtype)
    return result
