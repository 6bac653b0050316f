"""How lists are divided among tasks, and the scratch memory of a task.

Tasks depend on the lists alone, so that what they sum has the same bits for any threads.
"""

from __future__ import annotations

from collections.abc import Callable
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


class Lists(NamedTuple):
    """Checked offsets of lists, their lengths, and the first list of each part, then their number.

    Parts are the tasks of kernels.
    """

    offsets: I64
    lengths: I64
    parts: I64

    @classmethod
    def of(
        cls, offsets: I64, rows: int, cost: Callable[[I64], I64] = np.copy, most: int = 16
    ) -> Lists:
        """Return lists over ``rows`` rows in at most ``most`` parts of about equal cost.

        ``cost`` returns that of each list from the lengths. Raises ShapeError for offsets that are
        not int64 in rising order from 0 to ``rows``.
        """
        offsets = check_array("offsets", offsets, INT64, 1)
        lengths = list_lengths(offsets, rows)
        ends = np.cumsum(cost(lengths))
        total = int(ends[-1]) if len(ends) else 0
        count = max(1, min(most, len(lengths)))
        shares = [total * part // count for part in range(1, count)]
        inner = np.searchsorted(ends, shares, "right")
        parts = np.concatenate([[0], inner, [len(lengths)]]).astype(np.int64)
        return cls(offsets, lengths, parts)


@jit
def aligned_start(scratch: F32) -> int:
    """Return the address of the first element of the scratch that starts a cache line."""
    address: int = scratch.ctypes.data
    return address + -address % (4 * LINE)
