"""Which samples of a batch one process of many has: consecutive runs, almost equally long."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from dlrmjit.data.batch import Batch, Lookups


def share_sizes(n: int, parts: int) -> tuple[int, ...]:
    """Samples of each of ``parts`` consecutive shares of ``n``; the first ones are longer."""
    return tuple(n // parts + (p < n % parts) for p in range(parts))


def rank_sizes(n: int, ranks: int, shares: int) -> tuple[int, ...]:
    """Samples of each rank when ``shares`` (a multiple of ``ranks``) are dealt in runs."""
    sizes, each = share_sizes(n, shares), shares // ranks
    return tuple(sum(sizes[r * each : (r + 1) * each]) for r in range(ranks))


def starts_of(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Where each share begins, and the end of the last."""
    return tuple(accumulate(sizes, initial=0))


@dataclass(frozen=True)
class Share:
    """What ``rank`` of ``ranks`` has of every batch; ``shares`` as in :func:`rank_sizes`."""

    rank: int = 0
    ranks: int = 1
    shares: int = 0

    def bounds(self, n: int) -> tuple[int, int]:
        """The first of its samples in a batch of ``n``, and the first after them."""
        starts = starts_of(rank_sizes(n, self.ranks, self.shares or self.ranks))
        return starts[self.rank], starts[self.rank + 1]

    def of(self, batch: Batch) -> Batch:
        """Its part of a whole batch."""
        return cut(batch, *self.bounds(batch.n))


def cut(batch: Batch, start: int, stop: int) -> Batch:
    """Samples ``start`` to ``stop`` of a batch, their lookups merged anew."""
    runs = batch.offsets[:, start : stop + 1]
    parts = [batch.indices[run[0] : run[-1]] for run in runs]
    ends = np.cumsum([0, *(len(part) for part in parts)])
    offsets = runs - runs[:, :1] + ends[:-1, None]
    indices: Lookups = np.concatenate([batch.indices[:0], *parts])
    return Batch.unchecked(batch.dense[start:stop], indices, offsets, batch.labels[start:stop])
