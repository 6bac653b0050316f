"""How lookups are distributed over the rows of tables, from a sample of the batches of a run.

A table whose lookups hit few rows stays in caches, and its updates collide; one whose lookups hit
all rows alike runs at the speed of memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.batch import Batch
from dlrmjit.data.batch_shard import Share
from dlrmjit.data.source import SizedSource

HEAD = 0.01
"""Share of a table's rows, at least one row, that are its head."""
_MOST_BATCHES = 64  # of an epoch that are counted


@dataclass(frozen=True)
class TableAccess:
    """The lookups of one table: means per batch, and over all counted batches.

    ``head_share`` is the share of the lookups that hit the most frequent rows, :data:`HEAD` of the
    table's.
    """

    table: int
    rows: int
    lookups_per_batch: float
    unique_per_batch: float
    rows_seen: int
    head_share: float


class AccessCounter:
    """Counts the lookups of batches, by table and row."""

    def __init__(self, table_rows: tuple[int, ...]) -> None:
        self._rows = table_rows
        self._seen: list[list[tuple[NDArray[Any], NDArray[np.int64]]]] = [[] for _ in table_rows]
        self.batches = self.samples = 0

    def add(self, batch: Batch) -> None:
        """Count one batch."""
        for number, seen in enumerate(self._seen):
            indices, _ = batch.table(number)
            seen.append(np.unique(indices, return_counts=True))
        self.batches += 1
        self.samples += batch.n

    def tables(self) -> list[TableAccess]:
        """Return the lookups of every table; empty without batches."""
        return [self._table(number) for number in range(len(self._rows)) if self.batches]

    def _table(self, number: int) -> TableAccess:
        rows, batches = self._rows[number], self._seen[number]
        values = np.concatenate([rows for rows, _ in batches])
        weights = np.concatenate([counts for _, counts in batches])
        distinct, where = np.unique(values, return_inverse=True)
        counts = np.bincount(where, weights, minlength=1)
        head = np.sort(counts)[::-1][: max(1, int(HEAD * rows))].sum()
        total = counts.sum()
        return TableAccess(
            number,
            rows,
            float(total) / self.batches,
            sum(len(rows) for rows, _ in batches) / self.batches,
            len(distinct),
            float(head / total) if total else 0.0,
        )


class CountedSource:
    """A source whose first epoch is counted, some batches of it, as they pass.

    Of a source that is sliced, only this process's share of a batch passes.
    """

    def __init__(self, source: SizedSource, counter: AccessCounter) -> None:
        self._source, self._counter = source, counter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    @property
    def whole(self) -> SizedSource:
        """The source that is counted."""
        return self._source

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the same batches."""
        every = max(1, self._source.num_batches // _MOST_BATCHES)
        for number, batch in enumerate(self._source.batches(epoch, start), start):
            if number % every == 0 and self._counter.batches < _MOST_BATCHES:
                self._counter.add(batch)
            yield batch

    def sliced(self, share: Share) -> CountedSource:
        """Return this process's share, counted likewise."""
        return CountedSource(self._source.sliced(share), self._counter)
