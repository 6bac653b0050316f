"""How samples are dealt out: consecutive runs, their lengths at most one apart."""

from __future__ import annotations

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


def cut(batch: Batch, start: int, stop: int) -> Batch:
    """Samples ``start`` to ``stop`` of a batch, their lookups merged anew."""
    runs = batch.offsets[:, start : stop + 1]
    parts = [batch.indices[run[0] : run[-1]] for run in runs]
    ends = np.cumsum([0, *(len(part) for part in parts)])
    offsets = runs - runs[:, :1] + ends[:-1, None]
    indices: Lookups = np.concatenate([batch.indices[:0], *parts])
    return Batch.unchecked(batch.dense[start:stop], indices, offsets, batch.labels[start:stop])
