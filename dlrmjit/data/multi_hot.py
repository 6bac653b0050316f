"""Batches of tables some of whose columns hold several ids per row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.table import MultiHot, Table
from dlrmjit.data.validate import check_index_range


def gather_multi_hot(
    table: Table, chosen: NDArray[np.int64], dtype: type[np.int32] | type[np.int64]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Merged indices and offsets (S, N + 1) of rows ``chosen``.

    Raises IndexRangeError for an id outside its table.
    """
    multi = dict(table.multi)
    offsets = np.empty((len(table.table_rows), len(chosen) + 1), np.int64)
    parts, base = [], 0
    for s, rows in enumerate(table.table_rows):
        column = multi.get(s) or MultiHot(table.ids[:, s : s + 1])
        ids, ends = _lookups(column, chosen)
        if table.max_ind_range:
            ids = ids % table.max_ind_range
        check_index_range(s, ids, ends, rows)
        offsets[s] = base + ends
        parts.append(ids.astype(dtype, copy=False))
        base += len(ids)
    return np.concatenate(parts), offsets


def _lookups(column: MultiHot, chosen: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """One column's ids of rows ``chosen`` in a row, and their offsets from 0."""
    if column.offsets is None:
        lookups = column.ids.shape[1]
        return column.ids[chosen].reshape(-1), np.arange(len(chosen) + 1) * lookups
    starts = np.asarray(column.offsets[chosen])
    sizes = np.asarray(column.offsets[chosen + 1]) - starts
    ends = np.concatenate([[0], np.cumsum(sizes)])
    places = np.arange(ends[-1]) + np.repeat(starts - ends[:-1], sizes)
    return np.asarray(column.ids[places]), ends
