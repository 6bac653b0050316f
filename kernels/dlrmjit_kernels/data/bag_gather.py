"""Gathers bags of ids into a batch, in two passes: where the bags end, then the ids.

A column has the ids of all its rows contiguously, with offsets of the rows; a column with the
same number of ids in every row needs no offsets.
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
    """Set ``ends[0] = base`` and ``ends[k + 1] = ends[k]`` + the number of ids of ``chosen[k]``.

    The column has ``size`` ids. ``offsets`` is (rows + 1,), or empty if every row has ``lookups``
    ids. Returns -1, or the first row whose offsets decrease or leave the column.
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
    """Write the ids of rows ``chosen``, modulo ``modulus`` if that is > 0, to ``indices``.

    ``ends`` (N + 1) are their ends by :func:`bag_ends`. Returns whether all ids are within a
    table of ``rows`` rows.
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
