"""Bags of ids that accompany the records of a shuffle, for columns with any number of ids.

The bags of a row, one per column, are contiguous; the last elements of the row's record are
their numbers of ids.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.runtime.compile import jit

Integer = Any


@jit
def scatter_bags(
    counts: NDArray[np.int32],
    column: Integer,
    offsets: NDArray[np.int64],
    values: NDArray[np.int32],
    merged: NDArray[np.int32],
) -> None:
    """Copy the ``values`` of one column, of all rows, to their positions in the rows' bags.

    ``counts`` (M, N) is the number of ids per column and row; the bags of row r start at
    ``merged[offsets[r]]``.
    """
    at = 0
    for r in range(counts.shape[1]):
        to = offsets[r]
        for m in range(column):
            to += counts[m, r]
        for i in range(counts[column, r]):
            merged[to + i] = values[at + i]
        at += counts[column, r]


@jit
def unpack_bags(
    records: NDArray[np.int32],
    order: NDArray[np.int64],
    first_count: Integer,
    column: Integer,
    offsets: NDArray[np.int64],
    merged: NDArray[np.int32],
    ends: NDArray[np.int64],
    values: NDArray[np.int32],
) -> None:
    """Write one column's bags of records ``order`` to ``values``, and their ends to ``ends``.

    Element ``first_count + m`` of a record is the number of ids of its column m; the bags of
    record r start at ``merged[offsets[r]]``.
    """
    to = 0
    for k in range(order.size):
        record = order[k]
        at = offsets[record]
        for m in range(column):
            at += records[record, first_count + m]
        for i in range(records[record, first_count + column]):
            values[to + i] = merged[at + i]
        to += records[record, first_count + column]
        ends[k] = to
