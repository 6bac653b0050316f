"""The shards of the embedding tables on one rank, and its copies of replicated tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.table_spec import TableSpec
from dlrmjit.autograd.tape import Parameter
from dlrmjit.config.model import IN_MEMORY
from dlrmjit.data.batch import Batch
from dlrmjit.model.dynamic import DynamicRows
from dlrmjit.model.lookups import of_columns, of_tables, with_means
from dlrmjit.model.tables import (
    bounds_of,
    drawn_by_reference,
    drawn_seed,
    is_combined,
    is_dynamic,
    rows_in_use,
    spread_combined,
    table_parameter,
)
from dlrmjit.model.torch_rng import TorchStream
from dlrmjit.ops.backend import Backend, FloatArray, Lookups, Origin, StoredArray
from dlrmjit.parallel.comm import Comm
from dlrmjit.parallel.dynamic import (
    SavedRows,
    ShardedIds,
    check_dynamic,
    gathered_ids,
    saved_rows,
)
from dlrmjit.parallel.exchanges.layer_weights import (
    LayerColumns,
    LayerWeights,
    columns_of_shards,
)
from dlrmjit.parallel.exchanges.positions import check_positions
from dlrmjit.parallel.exchanges.sums import Totals, layers_of, operators, require_substitutable
from dlrmjit.parallel.exchanges.vectors import PooledExchange
from dlrmjit.parallel.lookup import ArrivalPort, ShardedLookup
from dlrmjit.parallel.plan import Plan, Shard
from dlrmjit.parallel.routing import Router
from dlrmjit.precision import Precision, check_precision

_ELEMENTS_PER_DRAW = 1 << 20  # elements drawn at a time


@dataclass(frozen=True)
class ShardGroup:
    """Shards of one width, stored together as one parameter, and learned weights of their rows.

    ``layer_weight`` has the columns of a first layer for their vectors.
    """

    shards: tuple[Shard, ...]
    parameter: Parameter
    row_weights: Parameter | None = None
    layer_weight: Parameter | None = None

    @property
    def count(self) -> int:
        """Number of shards."""
        return len(self.shards)


class ShardedTables:
    """One rank's shards of a model's tables, and its copies of replicated ones.

    Table t of the plan is ``architecture.table_specs[t]``. Shards of one node and width form a
    group, which is one parameter. Learned weights of pooling are sharded as the rows are; their
    tables have the numbers after those of the plan.
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
        comm_dtype: Precision = "fp32",
        micro_batches: int | None = None,
    ) -> None:
        check_precision(comm_dtype)
        check_positions(architecture, plan)
        self._is_exact = micro_batches is not None
        self.comm_dtype = comm_dtype
        require_substitutable(architecture, plan)
        check_dynamic(architecture, plan, micro_batches or comm.size)
        self._backend, self._comm, self.plan, self.strategy = backend, comm, plan, strategy
        self.architecture = architecture
        self.specs = (*architecture.table_specs, *architecture.row_weight_specs)
        self._nodes = {node.name: node for node in architecture.embeddings}
        self._weights_of = _numbers_of_weights(architecture)
        self.router = Router(comm, plan, micro_batches, architecture)
        self._operators = operators(architecture, plan.substituted)
        layers = layers_of(self._operators)
        self._layer_of = {layer.embedding: layer for layer in layers}
        columns: list[LayerColumns] = []
        self._drawn = {node.name for node in architecture.embeddings if node.initial != "zeros"}
        self.groups = tuple(
            self._make_group(tuple(shards), precision, columns)
            for _, shards in groupby(plan.of_rank(comm.rank), key=self.group_of)
        )
        self.layers = LayerWeights(comm, layers, columns)
        self.replicated: Parameter | None = None
        if plan.replicated:
            specs = [self.specs[t] for t in plan.replicated]
            self.replicated = table_parameter(backend, "emb_l.replicated", specs, precision)
        self.ids = self._make_ids()

    def _make_ids(self) -> ShardedIds | None:
        if self.architecture.dynamic is None:
            return None
        shards = [
            (shard, group.parameter, slot, self.specs[shard.table].node in self._drawn)
            for group in self.groups
            for slot, shard in enumerate(group.shards)
        ]
        return ShardedIds(self.architecture, self._backend, shards)

    @property
    def dynamic(self) -> DynamicRows | None:
        """The rows of this rank's dynamic ids, if the model has any."""
        return None if self.ids is None else self.ids.rows

    def group_of(self, shard: Shard) -> tuple[str, int, str]:
        """Return what the shards of one group have in common.

        Exact products are rounded shard by shard, so that each is a group.
        """
        node = self.specs[shard.table].node
        is_alone = self._is_exact and node in self._layer_of
        return node, shard.width, f".{shard.table}.{shard.first_col}" if is_alone else ""

    def _make_group(
        self, shards: tuple[Shard, ...], precision: Precision, columns: list[LayerColumns]
    ) -> ShardGroup:
        """Return a group; add the columns of a first layer's weight for its vectors."""
        node, width, suffix = self.group_of(shards[0])
        name, weights, layer = f"{node}.width{width}{suffix}", None, self._layer_of.get(node)
        if self._nodes[node].learned:
            of_rows = [self._sizes(self._of_weights(shard)) for shard in shards]
            weights = table_parameter(self._backend, f"{name}.pooling", of_rows, "fp32")
        sizes = [self._sizes(shard) for shard in shards]
        config = bounds_of(self.architecture, IN_MEMORY)
        parameter = table_parameter(self._backend, name, sizes, precision, config)
        if layer is None:
            return ShardGroup(shards, parameter, weights)
        slots = [self.specs[shard.table].slot for shard in shards]
        numbers = columns_of_shards(layer, shards, slots, self._nodes[node].dim)
        zeros = np.zeros((layer.outputs, len(numbers)), np.float32)
        weight = Parameter(self._backend.weight(zeros, precision), f"{layer.weight}.{name}")
        columns.append(LayerColumns(layer, numbers, weight))
        return ShardGroup(shards, parameter, weights, weight)

    def _sizes(self, shard: Shard) -> TableSpec:
        """Return the description of a shard as a table of its own."""
        spec = self.specs[shard.table]
        part = f"{spec.name}.{shard.first_row}.{shard.first_col}"
        return spec._replace(name=part, rows=shard.rows_of(spec.rows), dim=shard.width)

    def _of_weights(self, shard: Shard) -> Shard:
        """Return the shard of the learned weights of the rows of ``shard``."""
        number = self._weights_of[shard.table]
        return replace(shard, table=number, first_col=0, last_col=1)

    @cached_property
    def table_ranges(self) -> dict[str, range]:
        """Numbers of the tables of each node."""
        ranges: dict[str, range] = {}
        for t, spec in enumerate(self.specs[: len(self.plan.dims)]):
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

    def table_names(self) -> Mapping[str, tuple[str, ...]]:
        """Return the names of the tables of each parameter's shards, by the parameter's name."""
        return {
            parameter.name: tuple(self.specs[shard.table].name for shard in shards)
            for parameter, shards in self.shards_by_parameter()
        }

    def shards_by_parameter(self) -> list[tuple[Parameter, tuple[Shard, ...]]]:
        """Return the parameters of this rank's tables, each with its shards.

        Replicated tables are shards of all rows and columns with rank -1.
        """
        pairs = [(group.parameter, group.shards) for group in self.groups]
        pairs += [
            (group.row_weights, tuple(self._of_weights(shard) for shard in group.shards))
            for group in self.groups
            if group.row_weights is not None
        ]
        if self.replicated is not None:
            plan = self.plan
            whole = (Shard(t, -1, 0, 1, 0, plan.dims[t]) for t in plan.replicated)
            pairs.append((self.replicated, tuple(whole)))
        return pairs

    def shard_values(self) -> list[tuple[Shard, StoredArray]]:
        """Return this rank's shards and replicated tables, each with its values (rows, width).

        Of shards with dynamic ids only the rows that were ever used.
        """
        return [
            (shard, rows_in_use(parameter, i))
            for parameter, shards in self.shards_by_parameter()
            for i, shard in enumerate(shards)
        ]

    def values(self) -> Iterable[StoredArray]:
        """Return the values of this rank's shards, without weights of pooling."""
        return (values for shard, values in self.shard_values() if not self._is_weight(shard))

    def _is_weight(self, shard: Shard) -> bool:
        return shard.table >= len(self.plan.table_rows)

    def init_from_rng(self, rng: np.random.RandomState, stream: TorchStream) -> None:
        """Draw all tables in the order of one process, and copy this rank's shards."""
        self._start_ids(drawn_seed(self.architecture, rng))
        self._clear()
        shard_values = self.shard_values()
        for table, rows in enumerate(self.plan.table_rows):
            spec = self.specs[table]
            if spec.node not in self._drawn or is_dynamic(self.architecture, spec):
                continue
            draw = drawn_by_reference(self._nodes[spec.node], spec, rng, stream)
            shards = [(shard, values) for shard, values in shard_values if shard.table == table]
            if shards:
                _draw_table(draw, shards, rows, spec.dim)
            elif is_combined(spec):
                stream.skip_uniform(rows * spec.dim)
            else:
                _skip(rng, rows * spec.dim)

    def init_from_counter(self, seed: int) -> None:
        """Draw every element of this rank's shards from the seed and its position."""
        self._start_ids(seed)
        for parameter, shards in self.shards_by_parameter():
            if self._is_weight(shards[0]):
                continue
            origins = [self._origin(shard) for shard in shards]
            self._backend.initialise(parameter.data, seed, origins)
            for i, shard in enumerate(shards):
                spec = self.specs[shard.table]
                spread_combined(parameter.data.table(i), spec)
        self._clear()

    def _start_ids(self, seed: int) -> None:
        if self.ids is not None:
            self.ids.rows.start(seed)

    def _clear(self) -> None:
        """Set the tables that are not drawn to zero, and weights of pooling to 1."""
        for shard, values in self.shard_values():
            if self._is_weight(shard):
                values[...] = 1
            elif self.specs[shard.table].node not in self._drawn:
                values[...] = 0

    def _origin(self, shard: Shard) -> Origin:
        rows, dim = self.plan.table_rows[shard.table], self.plan.dims[shard.table]
        return Origin(shard.table, rows, dim, shard.first_row, shard.row_step, shard.first_col)

    def stored(self) -> dict[str, StoredArray]:
        """Return all whole tables on every rank, which must have the memory for them."""
        dtype, saved = self._backend.dtype, self.saved_rows()
        sizes = [saved.total.get(spec.column, spec.rows) for spec in self.specs]
        whole = [np.zeros((m, spec.dim), dtype) for m, spec in zip(sizes, self.specs, strict=True)]
        for shard, values in self.shard_values():
            if shard.rank == self._comm.rank or self._comm.rank == 0:
                table, first = whole[shard.table], saved.first.get(self.specs[shard.table].column)
                part = shard.view_of(table) if first is None else table[first:][: len(values)]
                part[...] = values
        for table in whole:
            self._comm.allreduce(table.reshape(-1), name="gather").wait()
        tables: dict[str, StoredArray] = {
            spec.name: table for spec, table in zip(self.specs, whole, strict=True)
        }
        return tables | gathered_ids(self.dynamic, self._comm)

    def saved_rows(self) -> SavedRows:
        """Return where this rank's dynamic rows are in a checkpoint; all ranks call this."""
        return saved_rows(self.dynamic, self._comm)

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

    def replicated_lookups(self, batch: Batch) -> Lookups:
        """Return the lookups of a batch in the replicated tables."""
        specs, columns = [self.specs[t] for t in self.plan.replicated], range(batch.tables)
        found = of_tables(of_columns(batch, columns), specs, columns)
        return with_means(found, specs)

    def lookup(
        self, sizes: tuple[int, ...], *, training: bool = False, parts: int = 1
    ) -> ShardedLookup:
        """Return a new lookup operation for batches of which each rank has so many samples.

        In ``training`` dynamic ids are counted and get rows. Vectors are exchanged in ``parts``.
        """
        dtype, plan = self._backend.dtype, self.plan
        without = [t for t, spec in enumerate(self.specs) if spec.node in plan.substituted]
        codec = self._backend if self.comm_dtype == "bf16" else None
        exchange = PooledExchange(
            *(self._comm, plan, sizes, self.strategy, dtype, without),
            vectors={t: spec.positions for t, spec in enumerate(self.specs) if spec.positions},
            codec=codec,
            parts=parts,
        )
        totals = Totals(self._operators, self._comm, sizes, dtype, exact=self._is_exact)
        return ShardedLookup(self._backend, self, exchange, totals, training=training)

    def port(self, n: int) -> ArrivalPort:
        """Return the lookups of a new graph, for batches of ``n`` samples on all ranks."""
        return ArrivalPort(self.lookup(self.router.sizes(n)))


def _numbers_of_weights(architecture: Architecture) -> dict[int, int]:
    """Return the number of the table of learned weights of each table that has one."""
    tables, weights = architecture.table_specs, architecture.row_weight_specs
    numbers = {(spec.node, spec.slot): len(tables) + i for i, spec in enumerate(weights)}
    keys = ((t, (spec.node, spec.slot)) for t, spec in enumerate(tables))
    return {t: numbers[key] for t, key in keys if key in numbers}


def _draw_table(
    draw: Callable[[int], Any], shards: Sequence[tuple[Shard, StoredArray]], rows: int, dim: int
) -> None:
    step = max(1, _ELEMENTS_PER_DRAW // dim)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        _copy_rows(shards, draw(count * dim).reshape(count, dim), first)


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
