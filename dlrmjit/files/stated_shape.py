"""Shapes as files state them, checked before an array of that shape is made."""

from __future__ import annotations

import math
from collections.abc import Sequence

_MOST_AXES = 32
_MOST_BYTES = 1 << 62


def is_possible_shape(shape: Sequence[object], itemsize: int) -> bool:
    """Return whether an array can have this shape.

    NumPy multiplies the axes that are not empty, so that an array without elements may be too
    large as well.
    """
    if len(shape) > _MOST_AXES or not all(type(n) is int and n >= 0 for n in shape):
        return False
    return math.prod(n for n in shape if isinstance(n, int) and n > 0) * itemsize < _MOST_BYTES
