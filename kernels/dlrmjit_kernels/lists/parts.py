"""How lists are divided among tasks, and the scratch memory of a task.

Tasks depend on the lists alone, so that what they sum has the same bits for any threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.list_metrics import list_lengths
from dlrmjit_kernels.runtime.compile import jit

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
LINE = 16
"""Floats of a cache line."""


def parts_of(offsets: I64, rows: int, costs: I64 | None = None, most: int = 16) -> I64:
    """Return the first list of each of at most ``most`` parts, and the number of lists.

    Parts have about equal ``costs``, one per list, by default their lengths. Raises ShapeError for
    offsets that do not run from 0 to ``rows``.
    """
    lengths = list_lengths(offsets, rows)
    ends = np.cumsum(lengths if costs is None else costs)
    total = int(ends[-1]) if len(ends) else 0
    count = max(1, min(most, len(lengths)))
    borders = np.searchsorted(ends, [total * part // count for part in range(1, count)], "right")
    return np.concatenate([[0], borders, [len(lengths)]]).astype(np.int64)


@jit
def aligned_start(scratch: F32) -> int:
    """Return the address of the first element of the scratch that starts a cache line."""
    address: int = scratch.ctypes.data
    return address + -address % (4 * LINE)
