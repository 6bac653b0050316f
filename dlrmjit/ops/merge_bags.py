"""Merges the lookups of several batches into those of one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dlrmjit.ops.backend import Lookups


def merge_bags(batches: Sequence[Lookups]) -> Lookups:
    """Return the lookups of all batches' samples in order, as copies."""
    tables = range(batches[0].offsets.shape[0])
    runs = [(b, slice(b.offsets[s, 0], b.offsets[s, -1])) for s in tables for b in batches]
    lengths = np.concatenate([np.diff(batch.offsets, axis=1) for batch in batches], axis=1)
    ends = np.cumsum(lengths).reshape(lengths.shape)
    starts = np.concatenate([[0], ends[:-1, -1]])
    weights = None
    if any(batch.weights is not None for batch in batches):
        weights = np.concatenate([_weights(batch, run) for batch, run in runs])
    indices = np.concatenate([batch.indices[run] for batch, run in runs])
    return Lookups(indices, np.column_stack([starts, ends]), weights)


def _weights(batch: Lookups, run: slice) -> NDArray[np.float32]:
    """Return the weights of some lookups, 1 where the batch has none."""
    if batch.weights is None:
        return np.ones(run.stop - run.start, np.float32)
    return batch.weights[run]
