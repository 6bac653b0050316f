"""Positions of a sequence in tables of many ranks: which of the last lookups of a bag each is.

Lookups travel in one bag per sample and shard. Where every lookup is a vector of its own, a rank
that has a part of the rows must know the position of each: a row travels as ``row * L + position``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.errors import ConfigError
from dlrmjit.ops.backend import FloatArray, Lookups
from dlrmjit.parallel.plan import Plan


class LastLookups(NamedTuple):
    """Which lookups are among the last L of their bags, their positions, and those bags' ends."""

    chosen: FloatArray
    positions: FloatArray
    offsets: FloatArray


def last_lookups(offsets: FloatArray, length: int) -> LastLookups:
    """Return the last ``length`` lookups of every bag, which have the last positions."""
    lengths = np.diff(offsets)
    positions = length - np.repeat(offsets[1:], lengths) + np.arange(offsets[0], offsets[-1])
    chosen = positions >= 0
    ends = np.concatenate([[0], np.cumsum(np.minimum(lengths, length))])
    return LastLookups(chosen, positions[chosen], ends)


def bags_of_positions(lookups: Lookups, length: int) -> Lookups:
    """Return lookups of shards with ``length`` bags of each sample, given rows with positions."""
    indices, every = lookups.indices.copy(), []
    for offsets in lookups.offsets:
        part, lengths = indices[offsets[0] : offsets[-1]], np.diff(offsets)
        bags = np.repeat(np.arange(len(lengths)), lengths) * length + part % length
        counts = np.bincount(bags, minlength=len(lengths) * length)
        every.append(offsets[0] + np.concatenate([[0], np.cumsum(counts)]))
        part //= length
    return Lookups(indices, np.array(every, np.int64), lookups.weights)


def by_sample(pooled: FloatArray, length: int) -> FloatArray:
    """Return vectors (N * L, shards, W) as (N, shards, L * W)."""
    bags, shards, width = pooled.shape
    samples = pooled.reshape(bags // length, length, shards, width).transpose(0, 2, 1, 3)
    rows: FloatArray = samples.reshape(bags // length, shards, length * width)
    return rows


def by_bag(samples: FloatArray, length: int) -> FloatArray:
    """Return vectors (N, shards, L * W) as (N * L, shards, W)."""
    n, shards, columns = samples.shape
    bags = samples.reshape(n, shards, length, columns // length).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(bags).reshape(n * length, shards, columns // length)


def check_positions(architecture: Architecture, plan: Plan) -> None:
    """Raise ConfigError for what many ranks cannot do with positions of a sequence."""
    for spec, placement in zip(architecture.table_specs, plan.placements, strict=True):
        if spec.positions and placement.kind == "replicated":
            raise ConfigError(
                f"{spec.name} has positions of a sequence, whose vectors are exchanged, but it is "
                "placed replicated; place it whole, or split it by rows or columns"
            )
        if spec.positions and architecture.dynamic and spec.column in architecture.dynamic.columns:
            raise ConfigError(
                f"{spec.name} has positions of a sequence, which travel with rows, but the ids of "
                f"its column {spec.column} are dynamic; train this model in one process"
            )
