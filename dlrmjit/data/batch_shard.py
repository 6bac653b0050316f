"""The samples of a batch that one of several processes has: consecutive, almost equal shares."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.batch import Batch, Lookups
from dlrmjit.data.list_batch import ListBatch, ListShare


def share_sizes(n: int, parts: int) -> tuple[int, ...]:
    """Return the sizes of ``parts`` consecutive shares of ``n``; the first may be one longer."""
    return tuple(n // parts + (p < n % parts) for p in range(parts))


def rank_sizes(n: int, ranks: int, shares: int) -> tuple[int, ...]:
    """Return the samples of each rank if each has ``shares / ranks`` consecutive shares."""
    sizes, each = share_sizes(n, shares), shares // ranks
    return tuple(sum(sizes[r * each : (r + 1) * each]) for r in range(ranks))


def starts_of(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return where each share starts, and the end of the last."""
    return tuple(accumulate(sizes, initial=0))


@dataclass(frozen=True)
class Share:
    """The samples, or lists, of every batch that ``rank`` of ``ranks`` has: :func:`rank_sizes`."""

    rank: int = 0
    ranks: int = 1
    shares: int = 0

    def bounds(self, n: int) -> tuple[int, int]:
        """Return the first sample of the share in a batch of ``n``, and the one after its last."""
        starts = starts_of(rank_sizes(n, self.ranks, self.shares or self.ranks))
        return starts[self.rank], starts[self.rank + 1]

    def sizes(self, lists: NDArray[np.int64]) -> tuple[int, ...]:
        """Return the rows of each rank of a batch with these offsets of lists."""
        counts = rank_sizes(len(lists) - 1, self.ranks, self.shares or self.ranks)
        return tuple(np.diff(lists[list(starts_of(counts))]).tolist())

    def of(self, batch: Batch) -> Batch:
        """Return the share of a whole batch; of one with lists, whole lists."""
        if not isinstance(batch, ListBatch):
            return cut(batch, *self.bounds(batch.n))
        first, last = self.bounds(len(batch.lists) - 1)
        own = batch.lists[first : last + 1]
        rows = cut(batch, int(own[0]), int(own[-1]))
        return ListShare(rows, own - own[0], self.sizes(batch.lists), len(batch.lists) - 1)


def cut(batch: Batch, start: int, stop: int) -> Batch:
    """Return samples ``start`` to ``stop`` of a batch; their lookups are copied and merged."""
    runs = batch.offsets[:, start : stop + 1]
    parts = [batch.indices[run[0] : run[-1]] for run in runs]
    ends = np.cumsum([0, *(len(part) for part in parts)])
    offsets = runs - runs[:, :1] + ends[:-1, None]
    indices: Lookups = np.concatenate([batch.indices[:0], *parts])
    weights = batch.weights
    if weights is not None:
        weights = np.concatenate([weights[:0], *(weights[run[0] : run[-1]] for run in runs)])
    rows = slice(start, stop)
    each = batch.sample_weights
    each = None if each is None else each[rows]
    return Batch.unchecked(batch.dense[rows], indices, offsets, batch.labels[rows], weights, each)
