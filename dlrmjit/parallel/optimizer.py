"""Moving the tables of one rank along their gradients, whatever the optimiser needs to know.

Row-wise Adagrad moves a row by the mean of the squares of its whole gradient. Who holds some
columns of a table knows only their part of it. All holders have the same lookups in the same
order, so the part of every looked-up row goes to all of them, and each adds the parts in the
order of the columns: all find the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Parameter
from dlrmjit.config.optimizer import OptimizerConfig, UpdateConfig
from dlrmjit.ops.backend import FloatArray
from dlrmjit.optim import Optimizer, make_optimizer
from dlrmjit.parallel.comm import Comm
from dlrmjit.parallel.lookup import ShardedLookup
from dlrmjit.parallel.model import ShardedDLRM
from dlrmjit.parallel.plan import Plan, Shard

AnyOptimizer = str | OptimizerConfig | UpdateConfig
Rows = NDArray[Any]


class ShardedOptimizer:
    """The optimiser of a sharded model; what it remembers is allocated at once."""

    def __init__(self, model: ShardedDLRM, optimizer: AnyOptimizer) -> None:
        config = UpdateConfig.of(optimizer)
        self._shares = bool(config.tables.row_states) and model.plan.cuts_columns
        if self._shares:
            config = replace(config, tables=config.tables.shared())
        self.optimizer: Optimizer = make_optimizer(config, model.backend)
        self.optimizer.prepare(model.parameters())
        self._tables = model.sharded
        self._squares = SquareExchange(model.comm, model.plan)

    def apply(self, parameter: Any, gradient: Any, rate: float) -> None:
        """Move a parameter of which this rank has the whole gradient."""
        if self._shares and parameter.is_sparse:
            self._note_squares(parameter, gradient)
        self.optimizer.apply(parameter, gradient, rate)

    def apply_shards(self, lookup: ShardedLookup, rate: float) -> None:
        """Move this rank's shards by the gradients that ``lookup`` receives."""
        if not self._shares:
            for parameter, gradient in lookup.gradients():
                self.optimizer.apply(parameter, gradient, rate)
            return
        found = list(lookup.gradients())
        means: dict[Shard, FloatArray] = {}
        for group, (parameter, gradient) in zip(self._tables.groups, found, strict=True):
            noted = self._note_squares(parameter, gradient)
            means |= {shard: noted.table(i)[:, 0] for i, shard in enumerate(group.shards)}
        self._squares.complete(means, lookup.rows())
        for parameter, gradient in found:
            self.optimizer.apply(parameter, gradient, rate)

    def _note_squares(self, parameter: Parameter, gradient: Any) -> Any:
        """Fill the state that the optimiser takes mean squares from; that state."""
        noted = self.optimizer.state(parameter).tables[-1]
        gradient.mean_squares(parameter.data, noted, self.optimizer.config.tables.weight_decay)
        return noted


class SquareExchange:
    """Completes mean squares of rows whose columns lie on several ranks."""

    def __init__(self, comm: Comm, plan: Plan) -> None:
        self._comm, self._dim = comm, plan.dim
        ranks, me = range(comm.size), comm.rank
        cut = [shard for shard in plan.shards if shard.width < plan.dim]
        holders = {(shard.table, shard.rank) for shard in cut}
        self._own = [shard for shard in cut if shard.rank == me]
        self._sent = [(r, s) for r in ranks for s in self._own if (s.table, r) in holders]
        self._received = [
            (r, s) for r in ranks for s in cut if s.rank == r and (s.table, me) in holders
        ]

    def complete(self, means: Mapping[Shard, FloatArray], rows: Mapping[Shard, Rows]) -> None:
        """Replace means over the columns of this rank's shards by means over all columns.

        ``means`` (M,) has one per row of a shard; those of the looked-up ``rows`` (NS,), which
        are the same for all shards of a table, are replaced.
        """
        if not self._sent:
            self._exchange([], [0] * self._comm.size, [0] * self._comm.size, np.float32)
            return
        length = {shard.table: len(rows[shard]) for shard in self._own}
        parts = {s: means[s][rows[s]] * means[s].dtype.type(s.width) for s in self._own}
        received = self._exchange(
            [parts[shard] for _, shard in self._sent],
            self._counts(self._sent, length),
            self._counts(self._received, length),
            parts[self._own[0]].dtype,
        )
        sums = self._sums(received, length)
        for shard in self._own:
            means[shard][rows[shard]] = sums[shard.table] / means[shard].dtype.type(self._dim)

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
        """The parts of every table added in the order of the columns."""
        places: dict[Shard, FloatArray] = {}
        start = 0
        for _, shard in self._received:
            places[shard] = received[start : start + length[shard.table]]
            start += length[shard.table]
        sums: dict[int, FloatArray] = {}
        for shard in sorted(places, key=lambda shard: (shard.table, shard.first_col)):
            part = places[shard]
            sums[shard.table] = sums[shard.table] + part if shard.table in sums else part
        return sums
