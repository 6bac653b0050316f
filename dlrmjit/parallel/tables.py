"""The shards of the embedding tables on one rank, and its copies of replicated tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.autograd.tape import Parameter
from dlrmjit.ops.backend import Backend, FloatArray, Origin, StoredArray
from dlrmjit.parallel.comm import Comm
from dlrmjit.parallel.exchange import PooledExchange
from dlrmjit.parallel.lookup import ArrivalPort, ShardedLookup
from dlrmjit.parallel.plan import Plan, Shard, one_width
from dlrmjit.parallel.routing import Router
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
    """One rank's shards of a model's tables, and its copies of replicated ones.

    Table t of the plan is ``architecture.table_specs[t]``. Shards of one node and width form a
    group, which is one parameter.
    """

    def __init__(
        self,
        architecture: Architecture,
        backend: Backend,
        precision: Precision,
        *,
        comm: Comm,
        plan: Plan,
        strategy: str = "alltoall",
        micro_batches: int | None = None,
    ) -> None:
        self._backend, self._comm, self.plan, self.strategy = backend, comm, plan, strategy
        self.specs = architecture.table_specs
        self.columns = tuple(spec.column for spec in self.specs)
        self.router = Router(comm, plan, micro_batches, self.columns)
        self._drawn = {node.name for node in architecture.embeddings if node.initial != "zeros"}
        self.groups = tuple(
            self._make_group(tuple(shards), precision)
            for _, shards in groupby(plan.of_rank(comm.rank), key=self.group_of)
        )
        self.replicated: Parameter | None = None
        if plan.replicated:
            rows = [plan.table_rows[t] for t in plan.replicated]
            dims = one_width([plan.dims[t] for t in plan.replicated])
            tables = backend.tables(rows, dims, precision)
            self.replicated = Parameter(tables, "emb_l.replicated", is_sparse=True)

    def group_of(self, shard: Shard) -> tuple[str, int]:
        """Return what the shards of one group have in common."""
        return self.specs[shard.table].node, shard.width

    def _make_group(self, shards: tuple[Shard, ...], precision: Precision) -> ShardGroup:
        rows = [shard.rows_of(self.plan.table_rows[shard.table]) for shard in shards]
        node, width = self.group_of(shards[0])
        data: Any = self._backend.tables(rows, width, precision)
        return ShardGroup(shards, Parameter(data, f"{node}.width{width}", is_sparse=True))

    @cached_property
    def table_ranges(self) -> dict[str, range]:
        """Numbers of the tables of each node."""
        ranges: dict[str, range] = {}
        for t, spec in enumerate(self.specs):
            ranges[spec.node] = range(t - spec.slot, t + 1)
        return ranges

    @property
    def placement(self) -> str:
        """Description of the memory that the tables of this rank are in."""
        found = {p.data.placement for p, _ in self.shards_by_parameter()}
        return " and ".join(sorted(found)) or "no pages"

    def parameters(self) -> tuple[Parameter, ...]:
        """Return the parameters of this rank's tables."""
        return tuple(parameter for parameter, _ in self.shards_by_parameter())

    def shards_by_parameter(self) -> list[tuple[Parameter, tuple[Shard, ...]]]:
        """Return the parameters of this rank's tables, each with its shards.

        Replicated tables are shards of all rows and columns with rank -1.
        """
        pairs = [(group.parameter, group.shards) for group in self.groups]
        if self.replicated is not None:
            plan = self.plan
            whole = (Shard(t, -1, 0, 1, 0, plan.dims[t]) for t in plan.replicated)
            pairs.append((self.replicated, tuple(whole)))
        return pairs

    def shard_values(self) -> list[tuple[Shard, StoredArray]]:
        """Return this rank's shards and replicated tables, each with its values (rows, width)."""
        return [
            (shard, parameter.data.table(i))
            for parameter, shards in self.shards_by_parameter()
            for i, shard in enumerate(shards)
        ]

    def values(self) -> Iterable[StoredArray]:
        """Return the values of this rank's shards."""
        return (values for _, values in self.shard_values())

    def init_from_rng(self, rng: np.random.RandomState) -> None:
        """Draw all tables from ``rng`` in the order of one process, and copy this rank's shards."""
        self._clear()
        shard_values = self.shard_values()
        for table, rows in enumerate(self.plan.table_rows):
            if self.specs[table].node not in self._drawn:
                continue
            shards = [(shard, values) for shard, values in shard_values if shard.table == table]
            if shards:
                _draw_table(rng, shards, rows, self.plan.dims[table])
            else:
                _skip(rng, rows * self.plan.dims[table])

    def init_from_counter(self, seed: int) -> None:
        """Draw every element of this rank's shards from the seed and its position."""
        for parameter, shards in self.shards_by_parameter():
            origins = [self._origin(shard) for shard in shards]
            self._backend.initialise(parameter.data, seed, origins)
        self._clear()

    def _clear(self) -> None:
        """Set the tables that are not drawn to zero."""
        for shard, values in self.shard_values():
            if self.specs[shard.table].node not in self._drawn:
                values[...] = 0

    def _origin(self, shard: Shard) -> Origin:
        rows, dim = self.plan.table_rows[shard.table], self.plan.dims[shard.table]
        return Origin(shard.table, rows, dim, shard.first_row, shard.row_step, shard.first_col)

    def stored(self) -> dict[str, StoredArray]:
        """Return all whole tables on every rank, which must have the memory for them."""
        dtype = self._backend.dtype
        whole = [np.zeros((spec.rows, spec.dim), dtype) for spec in self.specs]
        for shard, values in self.shard_values():
            if shard.rank == self._comm.rank or self._comm.rank == 0:
                shard.view_of(whole[shard.table])[...] = values
        for table in whole:
            self._comm.allreduce(table.reshape(-1), name="gather").wait()
        return {spec.name: table for spec, table in zip(self.specs, whole, strict=True)}

    def load(self, state: Mapping[str, StoredArray]) -> None:
        """Overwrite this rank's shards by those of whole tables."""
        for shard, values in self.shard_values():
            values[...] = shard.view_of(state[self.specs[shard.table].name])

    def replicated_vectors(self, vectors: Mapping[str, FloatArray]) -> FloatArray:
        """Return those of the replicated tables (n, R, E) among the vectors of all nodes."""
        plan, dtype = self.plan, self._backend.dtype
        n = len(next(iter(vectors.values())))
        widest = max(plan.dims[t] for t in plan.replicated)
        found = np.zeros((n, len(plan.replicated), widest), dtype)
        for i, t in enumerate(plan.replicated):
            spec = self.specs[t]
            found[:, i, : spec.dim] = vectors[spec.node][:, spec.slot, : spec.dim]
        return found

    def lookup(self, n: int) -> ShardedLookup:
        """Return a new lookup operation for batches of ``n`` samples."""
        sizes, dtype = self.router.sizes(n), self._backend.dtype
        exchange = PooledExchange(self._comm, self.plan, sizes, self.strategy, dtype)
        return ShardedLookup(self._backend, self, exchange)

    def port(self, n: int) -> ArrivalPort:
        """Return the lookups of a new graph, for batches of ``n`` samples on all ranks."""
        return ArrivalPort(self.lookup(n))


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
