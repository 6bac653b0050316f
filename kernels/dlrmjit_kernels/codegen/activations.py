"""Activations in registers, and the gradient before one, for the epilogues of kernels.

``silu`` is not invertible and not monotonic, so its derivative does not follow from its output: a
kernel that applies it also returns the derivative, which is stored for the backward pass. The
exponential is that of Cephes (Moshier), the hyperbolic tangent the rational function of Eigen,
both accurate to a few units in the last place.
"""

from __future__ import annotations

from enum import IntEnum
from functools import reduce
from typing import NamedTuple

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import F32, I32, Emitter, Value

_LOG2_E = 1.44269504088896341
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # their sum is ln 2; the first has few bits
_ROUNDER = 12582912.0  # 1.5 * 2**23: what is added to it is rounded to an integer in its low bits
_LEAST, _MOST = -87.0, 88.0  # beyond, powers of two are not normal
_EXP = (
    *(1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2),
    *(1.6666665459e-1, 5.0000001201e-1),
)
_TANH_BOUND = 7.90531110763549805
_TANH_ODD = (
    *(-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08),
    *(1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03),
)
_TANH_EVEN = (
    1.19825839466702e-06,
    1.18534705686654e-04,
    2.26843463243900e-03,
    4.89352518554385e-03,
)


class Activation(IntEnum):
    """An activation function; the numbers are parts of symbols."""

    NONE = 0
    RELU = 1
    SIGMOID = 2
    TANH = 3
    SILU = 4

    @property
    def has_slopes(self) -> bool:
        """Whether the backward pass needs stored derivatives instead of the output."""
        return self is Activation.SILU


class Activated(NamedTuple):
    """A vector after an activation, and its derivative if the activation ``has_slopes``."""

    value: Value
    slope: Value | None = None


def activate(emit: Emitter, z: Value, activation: Activation) -> Activated:
    """Return the activation of a vector; NaN stays NaN."""
    if activation == Activation.RELU:
        return Activated(emit.relu(z))
    if activation == Activation.SIGMOID:
        return Activated(_sigmoid(emit, z))
    if activation == Activation.TANH:
        return Activated(_tanh(emit, z))
    return _silu(emit, z) if activation == Activation.SILU else Activated(z)


def through_activation(
    emit: Emitter, gradient: Value, stored: Value, activation: Activation
) -> Value:
    """Return the gradient before an activation: ``stored`` is its output, or its derivative."""
    builder, one = emit.builder, _constant(emit, 1.0)
    if activation == Activation.RELU:
        return emit.where_positive(gradient, stored)
    if activation == Activation.SIGMOID:
        return builder.fmul(gradient, builder.fmul(stored, builder.fsub(one, stored)))
    if activation == Activation.TANH:
        return builder.fmul(gradient, builder.fsub(one, builder.fmul(stored, stored)))
    return builder.fmul(gradient, stored) if activation == Activation.SILU else gradient


def _sigmoid(emit: Emitter, z: Value) -> Value:
    """Return ``1 / (1 + exp(-z))``."""
    one = _constant(emit, 1.0)
    power = exponential(emit, emit.builder.fneg(z))
    return emit.builder.fdiv(one, emit.builder.fadd(one, power))


def _silu(emit: Emitter, z: Value) -> Activated:
    """Return ``z * s`` and its derivative ``s + z * s * (1 - s)``, s being the sigmoid of z."""
    builder, sigmoid = emit.builder, _sigmoid(emit, z)
    value = builder.fmul(z, sigmoid)
    rest = builder.fsub(_constant(emit, 1.0), sigmoid)
    return Activated(value, emit.multiply_add(value, rest, sigmoid))


def exponential(emit: Emitter, x: Value) -> Value:
    """Return ``2**n * exp(r)`` for ``x = n ln 2 + r``, n an integer and r small."""
    builder, whole = emit.builder, ir.VectorType(I32, emit.lanes)
    x = _clamped(emit, x, _LEAST, _MOST)
    rounder = _constant(emit, _ROUNDER)
    rounded = emit.multiply_add(x, _constant(emit, _LOG2_E), rounder)
    n = builder.fsub(rounded, rounder)
    r = emit.multiply_add(n, _constant(emit, -_LN2_HIGH), x)
    r = emit.multiply_add(n, _constant(emit, -_LN2_LOW), r)
    tail = builder.fmul(_polynomial(emit, _EXP, r), builder.fmul(r, r))
    small = builder.fadd(builder.fadd(tail, r), _constant(emit, 1.0))
    # the low bits of ``rounded`` are n, and the others are shifted out
    exponent = builder.add(builder.bitcast(rounded, whole), ir.Constant(whole, [127] * emit.lanes))
    power = builder.shl(exponent, ir.Constant(whole, [23] * emit.lanes))
    return builder.fmul(small, builder.bitcast(power, emit.vector))


def _tanh(emit: Emitter, z: Value) -> Value:
    """Return an odd polynomial over an even one."""
    z = _clamped(emit, z, -_TANH_BOUND, _TANH_BOUND)
    square = emit.builder.fmul(z, z)
    odd = emit.builder.fmul(z, _polynomial(emit, _TANH_ODD, square))
    return emit.builder.fdiv(odd, _polynomial(emit, _TANH_EVEN, square))


def _polynomial(emit: Emitter, coefficients: tuple[float, ...], x: Value) -> Value:
    """Return a polynomial, coefficients of high powers first."""
    first, *others = (_constant(emit, value) for value in coefficients)
    return reduce(lambda total, value: emit.multiply_add(total, x, value), others, first)


def _clamped(emit: Emitter, x: Value, least: float, most: float) -> Value:
    """Return ``x`` within bounds; no comparison holds for NaN, which is returned."""
    builder = emit.builder
    for bound, order in ((least, "<"), (most, ">")):
        outside = builder.fcmp_ordered(order, x, _constant(emit, bound))
        x = builder.select(outside, _constant(emit, bound), x)
    return x


def _constant(emit: Emitter, value: float) -> Value:
    return emit.broadcast(ir.Constant(F32, value))
