"""Merges the lookups of several batches into those of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bags = tuple[NDArray[Any], NDArray[np.int64]]


def merge_bags(batches: Sequence[Bags]) -> Bags:
    """Return ``indices`` and ``offsets`` (S, N + 1) of all batches' samples in order, as copies."""
    tables = range(batches[0][1].shape[0])
    parts = [indices[o[s, 0] : o[s, -1]] for s in tables for indices, o in batches]
    lengths = np.concatenate([np.diff(offsets, axis=1) for _, offsets in batches], axis=1)
    ends = np.cumsum(lengths).reshape(lengths.shape)
    starts = np.concatenate([[0], ends[:-1, -1]])
    return np.concatenate(parts), np.column_stack([starts, ends])
