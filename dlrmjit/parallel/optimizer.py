"""Update the shards of one rank, also where an optimizer needs the gradient of whole rows.

Row-wise Adagrad needs the mean square of the gradient of a whole row, but a rank with some columns
of a table has only their part of it. All ranks with columns of a table have the same lookups in
the same order. So they exchange their partial sums of squares of the looked-up rows, and each adds
them in the order of the columns: all get the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.autograd.sparse_gradient import SparseGradient
from dlrmjit.autograd.tape import Parameter
from dlrmjit.config.optimizer import OptimizerConfig, UpdateConfig
from dlrmjit.errors import ConfigError
from dlrmjit.ops.backend import FloatArray
from dlrmjit.optim import Optimizer, make_optimizer
from dlrmjit.optim.column_rates import table_rates
from dlrmjit.parallel.comm import Comm
from dlrmjit.parallel.lookup import ShardedLookup
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.plan import Plan, Shard

AnyOptimizer = str | OptimizerConfig | UpdateConfig
Rows = NDArray[Any]
Gradients = Sequence[tuple[Any, Any]]


class ShardedOptimizer:
    """The optimizer of a sharded model; its state is allocated here."""

    def __init__(self, model: ShardedModel, optimizer: AnyOptimizer) -> None:
        config = UpdateConfig.of(optimizer)
        self._exchanges_squares = bool(config.tables.row_states) and model.plan.splits_columns
        if self._exchanges_squares:
            config = replace(config, tables=config.tables.shared())
        _check_layers(model, config)
        rates = table_rates(model, config)
        self.optimizer: Optimizer = make_optimizer(config, model.backend, rates)
        self.optimizer.prepare(model.parameters())
        self._tables = model.store
        self._squares = SquareExchange(model.comm, model.plan)

    def apply(self, gradients: Gradients, rate: float) -> None:
        """Update parameters whose complete gradients this rank has."""
        for parameter, gradient in gradients if self._exchanges_squares else ():
            if parameter.is_sparse:
                self._store_squares(parameter, gradient)
        self.optimizer.apply(gradients, rate)

    def apply_shards(self, lookup: ShardedLookup, rate: float) -> None:
        """Update this rank's shards with the gradients that ``lookup`` receives."""
        if not self._exchanges_squares:
            self.optimizer.apply(lookup.gradients(), rate)
            return
        gradients = list(lookup.gradients())
        shards = {id(group.parameter): group.shards for group in self._tables.groups}
        means: dict[Shard, FloatArray] = {}
        for parameter, gradient in gradients:
            if not parameter.is_sparse:  # columns of a first layer
                continue
            squares = self._store_squares(parameter, gradient)
            own = shards.get(id(parameter), ())  # weights of rows are whole on their rank
            means |= {shard: squares.table(i)[:, 0] for i, shard in enumerate(own)}
        self._squares.complete(means, lookup.rows())
        self.optimizer.apply(gradients, rate)

    def _store_squares(self, parameter: Parameter, gradient: SparseGradient) -> Any:
        """Write the mean squares of ``gradient`` to the state that the optimizer reads them from.

        Returns this state, tables of one column.
        """
        squares = self.optimizer.state(parameter).tables[-1]
        gradient.mean_squares(parameter.data, squares, self.optimizer.config.tables.l2)
        return squares


def _check_layers(model: ShardedModel, config: UpdateConfig) -> None:
    """Refuse an optimizer that needs the norm of a weight of which ranks have some columns."""
    if config.mlps.scales_to_norm and model.store.layers.layers:
        name = next(iter(model.store.layers.layers))
        raise ConfigError(
            f"{config.mlps.name} needs the norm of all of {name}, but ranks that exchange products "
            "of the first layer have columns of it; give --exchange=alltoall"
        )


class SquareExchange:
    """Completes the mean squares of rows whose columns are on several ranks."""

    def __init__(self, comm: Comm, plan: Plan) -> None:
        self._comm, self._dims = comm, plan.dims
        ranks, me = range(comm.size), comm.rank
        shards = [shard for shard in plan.shards if shard.width < plan.dims[shard.table]]
        has_table = {(shard.table, shard.rank) for shard in shards}
        self._local = [shard for shard in shards if shard.rank == me]
        self._sent = [(r, s) for r in ranks for s in self._local if (s.table, r) in has_table]
        self._received = [
            (r, s) for r in ranks for s in shards if s.rank == r and (s.table, me) in has_table
        ]

    def complete(self, means: Mapping[Shard, FloatArray], rows: Mapping[Shard, Rows]) -> None:
        """Replace means over the columns of this rank's shards by means over all columns.

        ``means`` (M,) has one per row of a shard; those of the looked-up ``rows`` (NS,) are
        replaced in place. The rows are the same for all shards of a table.
        """
        if not self._sent:
            # Nothing to add here, but the exchange needs every rank.
            self._exchange([], [0] * self._comm.size, [0] * self._comm.size, np.float32)
            return
        length = {shard.table: len(rows[shard]) for shard in self._local}
        parts = {s: means[s][rows[s]] * means[s].dtype.type(s.width) for s in self._local}
        received = self._exchange(
            [parts[shard] for _, shard in self._sent],
            self._counts(self._sent, length),
            self._counts(self._received, length),
            parts[self._local[0]].dtype,
        )
        sums = self._sums(received, length)
        for shard in self._local:
            means[shard][rows[shard]] = sums[shard.table] / means[shard].dtype.type(
                self._dims[shard.table]
            )

    def _counts(self, messages: list[tuple[int, Shard]], length: dict[int, int]) -> list[int]:
        counts = [0] * self._comm.size
        for rank, shard in messages:
            counts[rank] += length[shard.table]
        return counts

    def _exchange(
        self, parts: list[FloatArray], sent: list[int], expected: list[int], dtype: Any
    ) -> FloatArray:
        outgoing = np.concatenate([np.empty(0, dtype), *parts])
        received = np.empty(sum(expected), dtype)
        self._comm.alltoallv(outgoing, sent, received, expected, name="squares").wait()
        return received

    def _sums(self, received: FloatArray, length: dict[int, int]) -> dict[int, FloatArray]:
        """Return the sums of squares by table, added in the order of the columns."""
        parts: dict[Shard, FloatArray] = {}
        start = 0
        for _, shard in self._received:
            parts[shard] = received[start : start + length[shard.table]]
            start += length[shard.table]
        sums: dict[int, FloatArray] = {}
        for shard in sorted(parts, key=lambda shard: (shard.table, shard.first_col)):
            part = parts[shard]
            sums[shard.table] = sums[shard.table] + part if shard.table in sums else part
        return sums
