"""Lookups of several batches as those of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bags = tuple[NDArray[Any], NDArray[np.int64]]


def merge_bags(batches: Sequence[Bags]) -> Bags:
    """``indices`` and ``offsets`` (S, N + 1) of all batches, samples one after another; copies."""
    tables = range(batches[0][1].shape[0])
    parts = [i[at[s, 0] : at[s, -1]] for s in tables for i, at in batches]
    lengths = np.concatenate([np.diff(at, axis=1) for _, at in batches], axis=1)
    ends = np.cumsum(lengths).reshape(lengths.shape)
    starts = np.concatenate([[0], ends[:-1, -1]])
    return np.concatenate(parts), np.column_stack([starts, ends])
