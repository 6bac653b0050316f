"""Rules of the compiled backend for dropout and batch normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from dlrmjit_kernels.layers.batch_norm import batch_norm_backward, column_moments, normalise_relu
from dlrmjit_kernels.layers.dropout import dropout
from dlrmjit_kernels.matrix.matrix import Matrix

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.random_masks import EPS, RunningMoments, stream

Gradients = Iterator[tuple[int, Any]]


def _output(step: Step) -> Matrix:
    x: Matrix = step.values[0]
    return step.cached("y", lambda: Matrix.empty_blocked(x.rows, x.cols))


def _stream(step: Step) -> int:
    seed, number = step.values[1]
    return stream(seed, number, step.options["layer"])


def _dropout_forward(step: Step) -> Matrix:
    y = _output(step)
    dropout(step.values[0], y, step.options["rate"], _stream(step))
    return y


def _dropout_backward(step: Step, gradient: Matrix) -> Gradients:
    dropout(gradient, gradient, step.options["rate"], _stream(step))
    yield 0, gradient


def _norm_forward(step: Step) -> Matrix:
    x, gamma, beta = step.values
    mean, inverse = _moments(step, x)
    scale = (gamma * inverse).astype(np.float32)
    y = _output(step)
    normalise_relu(x, y, scale, (beta - mean * scale).astype(np.float32))
    return y


def _moments(step: Step, x: Matrix) -> tuple[Any, Any]:
    """Return the mean and the inverse deviation to normalise by."""
    running: RunningMoments = step.options["running"]
    if not step.options["training"]:
        return running.mean, 1 / np.sqrt(running.variance.astype(np.float64) + EPS)
    mean, variance = (step.cached(name, lambda: np.zeros(x.cols)) for name in ("mean", "variance"))
    column_moments(x, mean, variance)
    step.memory["inverse"] = 1 / np.sqrt(variance + EPS)
    return mean, step.memory["inverse"]


def _norm_backward(step: Step, gradient: Matrix) -> Gradients:
    x, gamma, _ = step.values
    dgamma, dbeta = (step.cached(k, lambda: np.zeros_like(gamma)) for k in ("dgamma", "dbeta"))
    y, mean, inverse = (step.memory[name] for name in ("y", "mean", "inverse"))
    step.options["running"].add(mean, step.memory["variance"], x.rows)
    batch_norm_backward(x, y, gradient, mean, inverse, gamma, dgamma, dbeta)
    yield 1, dgamma
    yield 2, dbeta
    yield 0, gradient


RULES = (
    Rule("dropout", _dropout_forward, _dropout_backward),
    Rule("batch_norm", _norm_forward, _norm_backward),
)
