"""Rules of the reference backend for activations, dropout, batch and layer normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.backend import FloatArray
from dlrmjit.ops.random_masks import EPS, BatchMoments, DropoutKey, keep_mask, moments_of
from dlrmjit.ops.reference.activations import activate, before_activation

Gradients = Iterator[tuple[int, Any]]


def _dropped(step: Step, values: FloatArray) -> FloatArray:
    rate, key = step.options["rate"], step.values[1]
    stream = DropoutKey(*key).stream(step.options["layer"], values.shape[1])
    keep = keep_mask(values.shape, rate, stream)
    return np.where(keep, values * values.dtype.type(1 / (1 - rate)), 0).astype(values.dtype)


def _dropout_forward(step: Step) -> FloatArray:
    return _dropped(step, step.values[0])


def _dropout_backward(step: Step, gradient: FloatArray) -> Gradients:
    yield 0, _dropped(step, gradient)


def _moments_forward(step: Step) -> BatchMoments:
    (x,) = step.values
    if not len(x):
        return BatchMoments(0, *np.zeros((2, x.shape[1])))
    return BatchMoments(len(x), x.mean(0, dtype=np.float64), x.var(0, dtype=np.float64))


def _no_gradient(step: Step, gradient: Any) -> Gradients:
    yield from ()


def _norm_forward(step: Step) -> FloatArray:
    x, gamma, beta, *_ = step.values
    mean, inverse = _scale(step)
    unit = ((x - mean) * inverse).astype(x.dtype)
    z = gamma * unit + beta
    z = z + step.values[-1] if step.options.get("residual") else z
    y, stored = activate(z, step.options["activation"])
    step.memory.update(unit=unit, inverse=inverse, stored=stored)
    return y


def _scale(step: Step) -> tuple[Any, Any]:
    """Return the mean and the inverse deviation to normalise by."""
    running, moments = step.options["running"], moments_of(step)
    if not moments:
        return running.mean, 1 / np.sqrt(running.variance.astype(np.float64) + EPS)
    moments[0].check()
    return moments[0].mean, 1 / np.sqrt(moments[0].variance + EPS)


def _norm_backward(step: Step, gradient: FloatArray) -> Gradients:
    gamma, moments = step.values[1], step.values[3]
    unit, inverse = step.memory["unit"], step.memory["inverse"]
    dy = before_activation(gradient, step.memory["stored"], step.options["activation"])
    if step.options["running"] is not None:
        step.options["running"].add(moments)
    own = np.stack([dy.sum(0), (dy * unit).sum(0)])
    yield 4, own
    sums = step.values[4] if step.wants(4) else own
    centred = dy - sums[0] / moments.rows - unit * (sums[1] / moments.rows)
    dx = (gamma * inverse * centred).astype(dy.dtype)
    yield 1, own[1].astype(dy.dtype)
    yield 2, own[0].astype(dy.dtype)
    yield 0, dx
    if step.options.get("residual"):
        yield 5, dy


def _layer_norm_forward(step: Step) -> FloatArray:
    x, gamma, beta = step.values
    mean, variance = (f(x, 1, dtype=np.float64, keepdims=True) for f in (np.mean, np.var))
    inverse = 1 / np.sqrt(variance + EPS)
    unit = ((x - mean) * inverse).astype(x.dtype)
    y, stored = activate(gamma * unit + beta, step.options["activation"])
    step.memory.update(unit=unit, inverse=inverse, stored=stored)
    return y


def _layer_norm_backward(step: Step, gradient: FloatArray) -> Gradients:
    gamma, unit, inverse = step.values[1], step.memory["unit"], step.memory["inverse"]
    dy = before_activation(gradient, step.memory["stored"], step.options["activation"])
    by_gamma = dy * gamma
    along = by_gamma - by_gamma.mean(1, keepdims=True)
    dx = inverse * (along - unit * (by_gamma * unit).mean(1, keepdims=True))
    yield 1, (dy * unit).sum(0)
    yield 2, dy.sum(0)
    yield 0, dx.astype(dy.dtype)


def _activation_forward(step: Step) -> FloatArray:
    y, step.memory["stored"] = activate(step.values[0], step.options["activation"])
    return y


def _activation_backward(step: Step, gradient: FloatArray) -> Gradients:
    yield 0, before_activation(gradient, step.memory["stored"], step.options["activation"])


RULES = (
    Rule("activation", _activation_forward, _activation_backward),
    Rule("dropout", _dropout_forward, _dropout_backward),
    Rule("batch_moments", _moments_forward, _no_gradient),
    Rule("batch_norm", _norm_forward, _norm_backward),
    Rule("layer_norm", _layer_norm_forward, _layer_norm_backward),
)
