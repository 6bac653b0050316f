"""The lookups of a batch in stored tables, of which several may look up one categorical column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlrmjit.architecture.table_spec import TableSpec
from dlrmjit.data.batch import Batch
from dlrmjit.ops.backend import FloatArray, Lookups


def of_columns(batch: Batch, columns: Sequence[int]) -> Lookups:
    """Return the lookups of some categorical columns, in this order."""
    if tuple(columns) == tuple(range(batch.tables)):
        return Lookups(batch.indices, batch.offsets, batch.weights)
    everything = Lookups(batch.indices, batch.offsets, batch.weights)
    return _chosen(everything, columns)


def of_positions(lookups: Lookups, length: int) -> Lookups:
    """Return the lookups of one table with ``length`` bags of each sample instead of one.

    They are its last lookups, one each, in their order; the first ones are empty if it has fewer.
    """
    indices, (offsets,), weights = lookups
    lengths = np.diff(offsets)
    kept: slice | FloatArray = slice(offsets[0], offsets[-1])
    if lengths.max(initial=0) > length:
        numbers = np.arange(offsets[0], offsets[-1])
        kept = numbers[np.repeat(offsets[1:], lengths) - numbers <= length]
    has_one = np.arange(length) >= (length - np.minimum(lengths, length))[:, None]
    ends = np.concatenate([[0], np.cumsum(has_one.reshape(-1))])
    return Lookups(indices[kept], ends[None], None if weights is None else weights[kept])


def of_tables(lookups: Lookups, tables: Sequence[TableSpec], columns: Sequence[int]) -> Lookups:
    """Return the rows that stored tables look up, given the lookups of ``columns``."""
    positions = {column: i for i, column in enumerate(columns)}
    found = _chosen(lookups, [positions[table.column] for table in tables])
    for table, offsets in zip(tables, found.offsets, strict=True):
        part = slice(offsets[0], offsets[-1])
        found.indices[part] = table.rows_of(found.indices[part])
    return found


def with_means(lookups: Lookups, tables: Sequence[TableSpec]) -> Lookups:
    """Return lookups whose weights make a sum the mean of those tables that have means."""
    if not any(table.mean for table in tables):
        return lookups
    indices, offsets, weights = lookups
    scales = np.ones(len(indices), np.float32) if weights is None else weights.copy()
    for table, bags in zip(tables, offsets, strict=True):
        if table.mean:
            scales[bags[0] : bags[-1]] *= mean_shares(np.diff(bags))
    return Lookups(indices, offsets, scales)


def mean_shares(lengths: FloatArray) -> FloatArray:
    """Return the share of each lookup in the mean of its bag, float32, given bags' lengths."""
    shares = np.float32(1) / np.repeat(lengths, lengths).astype(np.float32)
    return np.asarray(shares, np.float32)


def _chosen(lookups: Lookups, numbers: Sequence[int]) -> Lookups:
    """Return a copy of the lookups of some tables, by number."""
    indices, offsets, weights = lookups
    runs = [slice(offsets[s, 0], offsets[s, -1]) for s in numbers]
    starts = np.cumsum([0, *(run.stop - run.start for run in runs)])[: len(runs)]
    chosen = offsets[list(numbers)]
    return Lookups(
        np.concatenate([indices[:0], *(indices[run] for run in runs)]),
        chosen - chosen[:, :1] + starts[:, None],
        None if weights is None else np.concatenate([weights[run] for run in runs]),
    )
