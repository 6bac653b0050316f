"""Rules of the reference backend for dropout and batch normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.backend import FloatArray
from dlrmjit.ops.random_masks import EPS, RunningMoments, keep_mask, stream

Gradients = Iterator[tuple[int, Any]]


def _dropped(step: Step, values: FloatArray) -> FloatArray:
    rate, (seed, number) = step.options["rate"], step.values[1]
    keep = keep_mask(values.shape, rate, stream(seed, number, step.options["layer"]))
    return np.where(keep, values * values.dtype.type(1 / (1 - rate)), 0).astype(values.dtype)


def _dropout_forward(step: Step) -> FloatArray:
    return _dropped(step, step.values[0])


def _dropout_backward(step: Step, gradient: FloatArray) -> Gradients:
    yield 0, _dropped(step, gradient)


def _norm_forward(step: Step) -> FloatArray:
    x, gamma, beta = step.values
    mean, inverse = _moments(step, x)
    unit = ((x - mean) * inverse).astype(x.dtype)
    y: FloatArray = np.maximum(gamma * unit + beta, 0)
    step.memory.update(unit=unit, inverse=inverse, y=y)
    return y


def _moments(step: Step, x: FloatArray) -> tuple[Any, Any]:
    """Return the mean and the inverse deviation to normalise by."""
    running: RunningMoments = step.options["running"]
    if not step.options["training"]:
        return running.mean, 1 / np.sqrt(running.variance.astype(np.float64) + EPS)
    mean, variance = x.mean(0, dtype=np.float64), x.var(0, dtype=np.float64)
    step.memory.update(mean=mean, variance=variance)
    return mean, 1 / np.sqrt(variance + EPS)


def _norm_backward(step: Step, gradient: FloatArray) -> Gradients:
    gamma, unit, inverse = step.values[1], step.memory["unit"], step.memory["inverse"]
    dy = gradient * (step.memory["y"] > 0)
    step.options["running"].add(step.memory["mean"], step.memory["variance"], len(dy))
    centred = dy - dy.mean(0) - unit * (dy * unit).mean(0)
    dx = (gamma * inverse * centred).astype(dy.dtype)
    yield 1, (dy * unit).sum(0)
    yield 2, dy.sum(0)
    yield 0, dx


RULES = (
    Rule("dropout", _dropout_forward, _dropout_backward),
    Rule("batch_norm", _norm_forward, _norm_backward),
)
