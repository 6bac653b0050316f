"""How lists are divided among tasks, and the scratch memory of a task.

Tasks depend on the lists alone, so that what they sum has the same bits for any threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.list_metrics import list_lengths
from dlrmjit_kernels.runtime.compile import jit
from dlrmjit_kernels.runtime.operands import INT64, check_array

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
LINE = 16
"""Floats of a cache line."""


class Cost(NamedTuple):
    """The cost of a list of n rows: ``n * (pairs * n + rows)``."""

    pairs: int
    rows: int


_LINEAR = Cost(pairs=0, rows=1)


class Lists(NamedTuple):
    """Checked offsets of lists, and the first list of each part, then their number.

    Parts are the tasks of kernels.
    """

    offsets: I64
    parts: I64

    @classmethod
    def of(cls, offsets: I64, rows: int, cost: Cost = _LINEAR, most: int = 16) -> Lists:
        """Return lists over ``rows`` rows in at most ``most`` parts of about equal cost.

        Raises ShapeError for offsets that are not int64 in rising order from 0 to ``rows``.
        """
        offsets = check_array("offsets", offsets, INT64, 1)
        parts = _parts(offsets, rows, cost.pairs, cost.rows, most)
        if not parts.size:
            list_lengths(offsets, rows)  # says what is wrong with them
        return cls(offsets, parts)


@jit
def _parts(offsets: I64, rows: int, of_pairs: int, of_rows: int, most: int) -> I64:
    """Return the first list of each part, then the number of lists; nothing for wrong offsets."""
    lists, total = offsets.size - 1, 0
    if lists < 0 or offsets[0] != 0 or offsets[lists] != rows:
        return np.empty(0, np.int64)
    for i in range(lists):
        if offsets[i + 1] < offsets[i]:  # their difference might wrap around
            return np.empty(0, np.int64)
        n = offsets[i + 1] - offsets[i]
        total += n * (of_pairs * n + of_rows)
    count = max(1, min(most, lists))
    parts = np.empty(count + 1, np.int64)
    parts[0], parts[count] = 0, lists
    first, before = 0, 0
    for part in range(1, count):
        while first < lists:
            n = offsets[first + 1] - offsets[first]
            cost = n * (of_pairs * n + of_rows)
            if before + cost > total * part // count:
                break
            first, before = first + 1, before + cost
        parts[part] = first
    return parts


@jit
def aligned_start(scratch: F32) -> int:
    """Return the address of the first element of the scratch that starts a cache line.

    The caller keeps the scratch alive as long as it uses the address.
    """
    address: int = scratch.ctypes.data
    return address + -address % (4 * LINE)
