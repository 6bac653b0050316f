"""Integer arithmetic of block sizes, for Python code and, by way of ``compile``, for kernels."""

from __future__ import annotations


def ceil_div(value: int, divisor: int) -> int:
    """Return ``value / divisor`` rounded up, for a positive ``divisor``."""
    return (value + divisor - 1) // divisor


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple of a positive ``multiple`` that is at least ``value``."""
    return (value + multiple - 1) // multiple * multiple
