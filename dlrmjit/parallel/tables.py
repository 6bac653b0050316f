"""The shards of the embedding tables on one rank, and its copies of replicated tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from dlrmjit.autograd.tape import Parameter
from dlrmjit.ops.backend import Backend, FloatArray, StoredArray
from dlrmjit.parallel.plan import Plan, Shard
from dlrmjit.precision import Precision

_ELEMENTS_PER_DRAW = 1 << 20  # elements drawn at a time


@dataclass(frozen=True)
class ShardGroup:
    """Shards of one width, stored together as one parameter."""

    shards: tuple[Shard, ...]
    parameter: Parameter

    @property
    def count(self) -> int:
        """Number of shards."""
        return len(self.shards)


class ShardedTables:
    """One rank's shards, in groups of equal width, and its copies of replicated tables."""

    def __init__(
        self, backend: Backend, plan: Plan, rank: int, precision: Precision = "fp32"
    ) -> None:
        self.plan = plan
        self.groups = tuple(
            _make_group(backend, plan, tuple(shards), precision)
            for _, shards in groupby(plan.of_rank(rank), key=lambda shard: shard.width)
        )
        self.replicated: Parameter | None = None
        if plan.replicated:
            rows = [plan.table_rows[t] for t in plan.replicated]
            tables = backend.tables(rows, plan.dim, precision)
            self.replicated = Parameter(tables, "emb_l.replicated", is_sparse=True)

    @property
    def placement(self) -> str:
        """In words, what the tables of this rank lie on."""
        return " and ".join(sorted({p.data.placement for p, _ in self.parameters()})) or "no pages"

    def parameters(self) -> list[tuple[Parameter, tuple[Shard, ...]]]:
        """Return the parameters of this rank's tables, each with its shards.

        Replicated tables are shards of all rows and columns with rank -1.
        """
        parameters = [(group.parameter, group.shards) for group in self.groups]
        if self.replicated is not None:
            whole = (Shard(t, -1, 0, 1, 0, self.plan.dim) for t in self.plan.replicated)
            parameters.append((self.replicated, tuple(whole)))
        return parameters

    def shard_values(self) -> list[tuple[Shard, StoredArray]]:
        """Return this rank's shards and replicated tables, each with its values (rows, width)."""
        return [
            (shard, parameter.data.table(i))
            for parameter, shards in self.parameters()
            for i, shard in enumerate(shards)
        ]

    def draw(self, rng: np.random.RandomState) -> None:
        """Draw all tables from ``rng`` in the order of one process, and copy this rank's shards."""
        shard_values = self.shard_values()
        for table, rows in enumerate(self.plan.table_rows):
            shards = [(shard, values) for shard, values in shard_values if shard.table == table]
            if shards:
                _draw_table(rng, shards, rows, self.plan.dim)
            else:
                _skip(rng, rows * self.plan.dim)


def _draw_table(
    rng: np.random.RandomState, shards: Sequence[tuple[Shard, StoredArray]], rows: int, dim: int
) -> None:
    bound, step = np.sqrt(1 / rows), max(1, _ELEMENTS_PER_DRAW // dim)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        _copy_rows(shards, rng.uniform(-bound, bound, (count, dim)), first)


def _skip(rng: np.random.RandomState, count: int) -> None:
    """Skip ``count`` float64 values of the stream; each consumes two 32-bit outputs."""
    bits: Any = rng._bit_generator
    bits.random_raw(2 * count, output=False)


def _copy_rows(shards: Sequence[tuple[Shard, StoredArray]], drawn: FloatArray, first: int) -> None:
    """Copy the rows ``drawn`` of a table, from row ``first`` on, to the shards that have them."""
    for shard, values in shards:
        # Rows between ``first`` and the shard's next row.
        if first > shard.first_row:
            skipped = -(first - shard.first_row) % shard.row_step
        else:
            skipped = shard.first_row - first
        part = drawn[skipped :: shard.row_step, shard.first_col : shard.last_col]
        start = (first + skipped - shard.first_row) // shard.row_step
        values[start : start + len(part)] = part


def _make_group(
    backend: Backend, plan: Plan, shards: tuple[Shard, ...], precision: Precision
) -> ShardGroup:
    rows = [shard.rows_of(plan.table_rows[shard.table]) for shard in shards]
    data: Any = backend.tables(rows, shards[0].width, precision)
    return ShardGroup(shards, Parameter(data, f"emb_l.width{shards[0].width}", is_sparse=True))
