"""What becomes of lookups outside their tables, in NumPy: clamped, or left out of their bags."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlrmjit.ops.backend import Lookups


def apply_bounds(lookups: Lookups, rows: Sequence[int], bounds: str) -> Lookups:
    """Return lookups that are inside tables of ``rows`` rows: clamped, or without those outside.

    ``bounds`` is ``clamp`` or ``ignore``.
    """
    indices, offsets, weights = lookups
    first, last = offsets[0, 0], offsets[-1, -1]
    indices, offsets = indices[first:last], offsets - first
    weights = None if weights is None else weights[first:last]
    limits = np.repeat(np.asarray(rows), offsets[:, -1] - offsets[:, 0])
    if bounds == "clamp":
        return Lookups(np.clip(indices, 0, limits - 1).astype(indices.dtype), offsets, weights)
    inside = (indices >= 0) & (indices < limits)
    inside_before = np.concatenate([[0], np.cumsum(inside)])
    weights = None if weights is None else weights[inside]
    return Lookups(indices[inside], inside_before[offsets], weights)
