"""Gathers bags of ids, a few or many per row, into a batch: first where they end, then they.

A column holds the ids of all its rows one after another, cut by offsets; a column with as many
ids in every row needs none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.runtime.compile import jit

Integer = Any


@jit
def bag_ends(
    chosen: NDArray[np.int64],
    offsets: NDArray[np.int64],
    size: Integer,
    lookups: Integer,
    base: Integer,
    ends: NDArray[np.int64],
) -> int:
    """``ends[k + 1] = ends[k] +`` ids of row ``chosen[k]``, from ``ends[0] = base`` on.

    The column holds ``size`` ids. ``offsets`` (rows + 1,), or empty where every row has
    ``lookups`` ids. Returns -1, or the first row whose offsets fall or leave the column.
    """
    ends[0] = base
    for k in range(chosen.size):
        if offsets.size == 0:
            ends[k + 1] = ends[k] + lookups
            continue
        row = chosen[k]
        start, end = offsets[row], offsets[row + 1]
        if start < 0 or end < start or end > size:
            return int(row)
        ends[k + 1] = ends[k] + (end - start)
    return -1


@jit
def gather_bags(
    chosen: NDArray[np.int64],
    offsets: NDArray[np.int64],
    values: NDArray[Any],
    modulus: Integer,
    rows: Integer,
    ends: NDArray[np.int64],
    indices: NDArray[Any],
) -> bool:
    """Write the ids of rows ``chosen``, modulo ``modulus`` where it is > 0, to ``indices``.

    ``ends`` (N + 1) as :func:`bag_ends` made them says where. Returns whether all of them are
    within a table of ``rows`` rows.
    """
    low, high = np.int64(0), np.int64(-1)
    for k in range(chosen.size):
        first, last = ends[k], ends[k + 1]
        start = offsets[chosen[k]] if offsets.size else chosen[k] * (last - first)
        for i in range(last - first):
            index = np.int64(values[start + i])
            if modulus > 0:
                index = index % modulus
            low, high = min(low, index), max(high, index)
            indices[first + i] = index
    return bool(low >= 0 and high < rows)
