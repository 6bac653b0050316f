"""Decimal digits to the nearest float64, so that text has the bits of any other source.

A product with a 128-bit power of five decides the rounding of up to 19 digits (Lemire, Number
Parsing at a Gigabyte per Second, 2021; Mushtak and Lemire, 2023, show that no case is left over).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.runtime.compile import jit

LEAST_POWER, MOST_POWER = -342, 308
"""Powers of ten beyond which 19 digits are 0 or infinite."""
EXACT_POWER = 22  # the largest power of ten that float64 holds exactly
_EXACT_DIGITS = np.uint64(1 << 53)
_LOW = np.uint64(0xFFFFFFFF)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_HALF = np.uint64(32)
_ONE, _ZERO = np.uint64(1), np.uint64(0)
_PRECISION = 55  # bits of the product that decide: those of float64 and three more

Integer = Any


def _powers_of_five() -> NDArray[np.uint64]:
    """Return the first 128 bits of 5**q, of its reciprocal for q < 0, as (q, high and low)."""
    rows = [_bits_of_power(q) for q in range(LEAST_POWER, MOST_POWER + 1)]
    return np.array([(bits >> 64, bits & (2**64 - 1)) for bits in rows], np.uint64)


def _bits_of_power(q: int) -> int:
    power: int = 5 ** abs(q)
    if q >= 0:
        length = power.bit_length()
        return power << (128 - length) if length <= 128 else power >> (length - 128)
    bits = (1 << (power.bit_length() + 128)) // power + 1
    return bits >> (bits.bit_length() - 128)


_POWERS = _powers_of_five()
_EXACT = np.array([10.0**q for q in range(EXACT_POWER + 1)])


@jit
def scaled(digits: Any, power: Integer) -> Any:
    """Return the float64 nearest to ``digits`` (uint64) times 10**``power``; ties to even."""
    if digits == _ZERO or power < LEAST_POWER:
        return 0.0
    if power > MOST_POWER:
        return np.inf
    if digits <= _EXACT_DIGITS and -EXACT_POWER <= power <= EXACT_POWER:
        exact = np.float64(digits)
        return exact * _EXACT[power] if power >= 0 else exact / _EXACT[-power]
    return _rounded_product(digits, power)


@jit
def _rounded_product(digits: Any, power: Integer) -> float:
    zeros = _leading_zeros(digits)
    high, low = _product(digits << np.uint64(zeros), power)
    upper = np.int64(high >> np.uint64(63))
    shift = np.uint64(upper + 64 - 52 - 3)
    mantissa = high >> shift
    exponent = ((217706 * power) >> 16) + 63 + upper - zeros + 1023
    if exponent <= 0:  # subnormal: fewer bits are left
        lost = 1 - exponent
        if lost >= 64:
            return 0.0
        mantissa >>= np.uint64(lost)
        mantissa = (mantissa + (mantissa & _ONE)) >> _ONE
        return math.ldexp(np.float64(mantissa), -1074)
    can_tie = low <= _ONE and -4 <= power <= 23 and (mantissa & np.uint64(3)) == _ONE
    if can_tie and (mantissa << shift) == high:  # exactly between two numbers
        mantissa &= ~_ONE
    mantissa = (mantissa + (mantissa & _ONE)) >> _ONE
    if exponent >= 2047 or (exponent == 2046 and mantissa >= np.uint64(1 << 53)):
        return np.inf
    return math.ldexp(np.float64(mantissa), exponent - 1023 - 52)


@jit
def _product(digits: Any, power: Integer) -> tuple[Any, Any]:
    """Return the first 128 bits of the product with a power of five, as precise as needed."""
    row = power - LEAST_POWER
    high, low = _multiply(digits, _POWERS[row, 0])
    mask = _ALL >> np.uint64(_PRECISION)
    if (high & mask) == mask:
        more, _ = _multiply(digits, _POWERS[row, 1])
        low += more
        if more > low:
            high += _ONE
    return high, low


@jit
def _multiply(a: Any, b: Any) -> tuple[Any, Any]:
    """Return the high and low 64 bits of a product."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    low, middle = a_low * b_low, a_high * b_low
    cross = (low >> _HALF) + (middle & _LOW) + a_low * b_high
    high = a_high * b_high + (middle >> _HALF) + (cross >> _HALF)
    return high, (cross << _HALF) | (low & _LOW)


@jit
def _leading_zeros(value: Any) -> int:
    zeros = 0
    for step in (32, 16, 8, 4, 2, 1):
        if (value >> np.uint64(64 - step)) == _ZERO:
            value <<= np.uint64(step)
            zeros += step
    return zeros
