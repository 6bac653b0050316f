"""Rules of the compiled backend for activations, dropout, batch and layer normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from dlrmjit_kernels.layers.batch_norm import Moments, bind_normalise, normalise
from dlrmjit_kernels.layers.dropout import dropout
from dlrmjit_kernels.layers.elementwise import bind_activation_backward
from dlrmjit_kernels.layers.fully_connected import activation_code
from dlrmjit_kernels.layers.layer_norm import layer_norm_backward, layer_norm_forward
from dlrmjit_kernels.layers.norm_gradient import NormGradient
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.runtime.compile import Call
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.jit.convolution.gradients import gradient_buffer
from dlrmjit.ops.random_masks import EPS, BatchMoments, DropoutKey, moments_of

Gradients = Iterator[tuple[int, Any]]


def _buffer(step: Step, name: str) -> Matrix:
    x: Matrix = step.values[0]
    return step.cached(name, lambda: Matrix.empty(x.layout))


def _slopes(step: Step) -> Matrix | None:
    """Return where derivatives of the activation are stored, if the backward pass needs them."""
    has_slopes = activation_code(step.options["activation"]).has_slopes
    return _buffer(step, "slopes") if has_slopes else None


def _stored(step: Step) -> Matrix:
    """Return what the backward pass needs of the activation: its derivatives, or its output."""
    return _slopes(step) or _buffer(step, "y")


def _drop(step: Step, x: Matrix, y: Matrix) -> None:
    stream = DropoutKey(*step.values[1]).stream(step.options["layer"], x.cols)
    dropout(x, y, step.options["rate"], stream)


def _dropout_forward(step: Step) -> Matrix:
    y = _buffer(step, "y")
    _drop(step, step.values[0], y)
    return y


def _dropout_backward(step: Step, gradient: Matrix) -> Gradients:
    _drop(step, gradient, gradient)
    yield 0, gradient


def _moments_forward(step: Step) -> BatchMoments:
    (x,) = step.values
    mean, variance = (step.cached(name, partial(np.zeros, x.cols)) for name in ("mean", "variance"))
    if x.rows:
        step.cached_for("moments", (x,), partial(Moments, x)).write(mean, variance)
    return BatchMoments(x.rows, mean, variance)


def _no_gradient(step: Step, gradient: Any) -> Gradients:
    yield from ()


def _norm_forward(step: Step) -> Matrix:
    x, gamma, beta, *_ = step.values
    mean, inverse = _scale(step)
    affine = _affine(step)
    affine[0] = gamma * inverse
    affine[1] = beta - mean * affine[0]
    residual = step.values[-1] if step.options.get("residual") else None
    bind = partial(_bind_normalise, step, x, residual)
    step.cached_for("normalise", (x, residual), bind)()
    return _buffer(step, "y")


def _affine(step: Step) -> NDArray[np.float32]:
    """Return scale and shift (2, C), which the backward pass reads, too."""
    return step.cached("affine", lambda: np.empty((2, step.values[0].cols), np.float32))


def _bind_normalise(step: Step, x: Matrix, residual: Matrix | None) -> Call:
    y, slopes = _buffer(step, "y"), _slopes(step)
    return bind_normalise(x, y, _affine(step), step.options["activation"], slopes, residual)


def _scale(step: Step) -> tuple[Any, Any]:
    """Return the mean and the inverse deviation to normalise by."""
    running, moments = step.options["running"], moments_of(step)
    if not moments:
        return running.mean, 1 / np.sqrt(running.variance.astype(np.float64) + EPS)
    moments[0].check()
    step.memory["inverse"] = 1 / np.sqrt(moments[0].variance + EPS)
    return moments[0].mean, step.memory["inverse"]


def _norm_backward(step: Step, gradient: Matrix) -> Gradients:
    x, gamma, _, (rows, mean, variance), _, *residual = step.values
    if step.options["running"] is not None:
        step.options["running"].add(BatchMoments(rows, mean, variance))
    inverse = step.memory["inverse"]
    dx = gradient_buffer(step, 0, x.layout) if residual else None
    bind = partial(_bind_gradient, step, gradient, dx)
    bound = step.cached_for("gradient", (x, gradient, dx), bind)
    if step.wants(4):
        own = bound.sums(mean)
        yield 4, own
        bound.apply(mean, inverse, gamma, step.values[4], rows)
    else:
        own = bound.whole(mean, inverse, gamma, rows)
    dgamma, dbeta = _vectors(step, gamma)
    dbeta[...], dgamma[...] = own[0], own[1] * inverse
    yield 1, dgamma
    yield 2, dbeta
    yield 0, dx or gradient
    if residual:
        yield 5, gradient


def _bind_gradient(step: Step, dy: Matrix, dx: Matrix | None) -> NormGradient:
    code = activation_code(step.options["activation"])
    return NormGradient(step.values[0], _stored(step), dy, code, dx, _affine(step))


def _vectors(step: Step, gamma: Any) -> tuple[Any, Any]:
    """Return the gradients of gamma and beta, in the same arrays for every replay."""
    make = partial(np.zeros_like, gamma)
    return step.cached("dgamma", make), step.cached("dbeta", make)


def _layer_norm_forward(step: Step) -> Matrix:
    x, gamma, beta = step.values
    y, activation = _buffer(step, "y"), step.options["activation"]
    mean, inverse = (step.cached(name, partial(np.empty, x.rows)) for name in ("mean", "inverse"))
    layer_norm_forward(x, y, gamma, beta, mean, inverse, EPS)
    if activation != "none":
        _activate(step, y, y)
    return y


def _layer_norm_backward(step: Step, gradient: Matrix) -> Gradients:
    x, gamma, _ = step.values
    if activation_code(step.options["activation"]):
        _before_activation(step, gradient)
    dgamma, dbeta = _vectors(step, gamma)
    moments = step.memory["mean"], step.memory["inverse"]
    layer_norm_backward(x, gradient, gamma, *moments, dgamma, dbeta)
    yield 1, dgamma
    yield 2, dbeta
    yield 0, gradient


def _activation_forward(step: Step) -> Matrix:
    y = _buffer(step, "y")
    _activate(step, step.values[0], y)
    return y


def _activation_backward(step: Step, gradient: Matrix) -> Gradients:
    _before_activation(step, gradient)
    yield 0, gradient


def _activate(step: Step, x: Matrix, y: Matrix) -> None:
    ones, zeros = np.ones(x.cols, np.float32), np.zeros(x.cols, np.float32)
    normalise(x, y, ones, zeros, step.options["activation"], _slopes(step))


def _before_activation(step: Step, gradient: Matrix) -> None:
    """Replace a gradient by that before the activation."""
    code = activation_code(step.options["activation"])
    bind_activation_backward(_stored(step), gradient, gradient, code)()


RULES = (
    Rule("activation", _activation_forward, _activation_backward),
    Rule("dropout", _dropout_forward, _dropout_backward),
    Rule("batch_moments", _moments_forward, _no_gradient),
    Rule("batch_norm", _norm_forward, _norm_backward),
    Rule("layer_norm", _layer_norm_forward, _layer_norm_backward),
)
