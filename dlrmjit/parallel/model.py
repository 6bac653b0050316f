"""The DLRM of many ranks: MLPs on every rank, tables where the plan puts them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Parameter, Variable
from dlrmjit.config.model import ModelConfig
from dlrmjit.config.training import LossConfig
from dlrmjit.data.batch import Batch
from dlrmjit.errors import ConfigError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.model.graph import Graph, cache_graph
from dlrmjit.ops.backend import Backend, Features, Origin, StoredArray
from dlrmjit.parallel.comm import Comm
from dlrmjit.parallel.exchange import PooledExchange
from dlrmjit.parallel.lookup import ARRIVE, ShardedLookup
from dlrmjit.parallel.plan import Plan, Shard
from dlrmjit.parallel.routing import Router, ShardedBatch
from dlrmjit.parallel.tables import ShardedTables
from dlrmjit.perf.profile import Profile
from dlrmjit.precision import Precision


class ShardedDLRM(DLRM):
    """A :class:`~dlrmjit.model.dlrm.DLRM` that all ranks of ``comm`` make up together.

    Parameters
    ----------
    config, backend, rng, initialise, init, precision, seed : as of a DLRM; every rank gives the
        same
    comm : the ranks
    plan : where tables live
    strategy : how pooled embeddings travel, see :class:`PooledExchange`
    shares : shares that batches are dealt in, a multiple of the ranks; by default one each

    ``load_state`` wants whole tables, and every rank takes its part.
    """

    def __init__(
        self,
        config: ModelConfig,
        comm: Comm,
        plan: Plan,
        *,
        backend: str | Backend | None = None,
        rng: np.random.RandomState | None = None,
        initialise: bool = True,
        init: str = "reference",
        strategy: str = "alltoall",
        micro_batches: int | None = None,
        precision: Precision = "fp32",
        seed: int = 123,
    ) -> None:
        _check_fits(config, comm, plan)
        self.comm, self.plan, self.strategy = comm, plan, strategy
        self.micro_batches = micro_batches or comm.size
        self.router = Router(comm, plan, self.micro_batches)
        self._answers: dict[int, Graph] = {}
        super().__init__(
            config,
            backend=backend,
            rng=rng,
            initialise=initialise,
            init=init,
            precision=precision,
            seed=seed,
        )

    @property
    def sharded(self) -> ShardedTables:
        """This rank's part of the tables."""
        tables: ShardedTables = self.tables.data
        return tables

    def _make_tables(self) -> ShardedTables:
        return ShardedTables(self.backend, self.plan, self.comm.rank, self.precision)

    def _count_tables(self, seed: int) -> None:
        for parameter, shards in self.sharded.parameters():
            self.backend.initialise(parameter.data, seed, [self._origin(s) for s in shards])

    def _origin(self, shard: Shard) -> Origin:
        place = shard.first_row, shard.row_step, shard.first_col
        return Origin(shard.table, self.plan.table_rows[shard.table], self.plan.dim, *place)

    def _draw_tables(self, rng: np.random.RandomState) -> None:
        self.sharded.draw(rng)

    def _table_values(self) -> Iterable[StoredArray]:
        return (values for _, values in self.sharded.shard_values())

    def stored(self) -> dict[str, StoredArray]:
        """As :meth:`DLRM.state_dict`, gathered on every rank: for models that one can hold."""
        state = {
            f"emb_l.{t}.weight": np.zeros((rows, self.plan.dim), self.backend.dtype)
            for t, rows in enumerate(self.plan.table_rows)
        }
        for shard, values in self.sharded.shard_values():
            if shard.rank == self.comm.rank or self.comm.rank == 0:
                shard.view_of(state[f"emb_l.{shard.table}.weight"])[...] = values
        for table in state.values():
            self.comm.allreduce(table.reshape(-1), name="gather").wait()
        return {**state, **self.mlp_state()}

    def _load_tables(self, state: Mapping[str, StoredArray]) -> None:
        for shard, values in self.sharded.shard_values():
            values[...] = shard.view_of(state[f"emb_l.{shard.table}.weight"])

    def parameters(self) -> tuple[Parameter, ...]:
        """What this rank trains: its shards, its copies of small tables, the MLPs."""
        return (*(p for p, _ in self.sharded.parameters()), *self.bottom, *self.top)

    def lookup(self, n: int) -> ShardedLookup:
        """A new way to look up batches of ``n`` samples, and to send gradients back."""
        sizes = self.router.sizes(n)
        exchange = PooledExchange(self.comm, self.plan, sizes, self.strategy, self.backend.dtype)
        return ShardedLookup(self.backend, self.sharded, exchange)

    def predict_proba(
        self, batch: Batch | ShardedBatch, *, threshold: float = 0.0
    ) -> NDArray[np.float32]:
        """Probabilities of this rank's share of a batch that all ranks give.

        Otherwise as :meth:`DLRM.predict_proba`.
        """
        if isinstance(batch, Batch):
            batch = self.router.route(batch)
        graph = self._answers.get(batch.n)
        if not isinstance(graph, ShardedGraph):
            graph = ShardedGraph(self, batch.n)
            cache_graph(self._answers, batch.n, graph)
        graph.start(batch)
        graph.tape.forward()
        return self.backend.probabilities(graph.logits.data, threshold)


class PortGraph(Graph):
    """A graph whose pooled embeddings come in, and whose gradients leave, by a port."""

    def __init__(
        self,
        model: DLRM,
        n: int,
        port: Any,
        loss: LossConfig | None,
        samples: int | None,
        profile: Profile | None = None,
    ) -> None:
        self.port = port
        self.arrival = Variable(name="arrival", requires_grad=True)
        self._shape = (n, model.config.tables, model.config.embedding_dim)
        own = {ARRIVE.name: ARRIVE}
        self._arrive = (profile.rules(own) if profile else own)[ARRIVE.name]
        super().__init__(model, n, loss, samples, profile)

    def _record_pooled(self, room: Features) -> Variable:
        return self.tape.record(
            self._arrive,
            self.arrival,
            out=room.pooled,
            shape=self._shape,
            dtype=self.model.backend.dtype,
            port=self.port,
        )

    def _load_lookups(self, batch: Batch) -> None:
        """Lookups are the port's matter."""


class ShardedGraph(PortGraph):
    """One rank's graph for batches of ``n`` samples, and its lookups in the tables of all."""

    def __init__(
        self,
        model: ShardedDLRM,
        n: int,
        loss: LossConfig | None = None,
        profile: Profile | None = None,
    ) -> None:
        self.lookup = model.lookup(n)
        own = model.router.sizes(n)[model.comm.rank]
        super().__init__(model, own, self.lookup, loss, n, profile)
        post = self.lookup.post
        self._post = profile.timed("embedding forward", post) if profile else post

    def start(self, batch: ShardedBatch) -> None:
        """Make ``batch`` the input of the next replay, and send its pooled embeddings."""
        self.load(batch.local)
        self.lookup.load(batch)
        self._post()


def _check_fits(config: ModelConfig, comm: Comm, plan: Plan) -> None:
    if config.dropout or config.batch_norm:
        raise ConfigError("dropout and batch normalisation need one process and no --reproducible")
    if config.table_dims:
        raise ConfigError("tables of several widths need one process and no --reproducible")
    if plan.ranks != comm.size:
        raise ConfigError(f"the plan is for {plan.ranks} ranks, but there are {comm.size}")
    if (plan.table_rows, plan.dim) != (config.table_rows, config.embedding_dim):
        raise ConfigError(
            f"the plan is for tables of {plan.table_rows} rows and width {plan.dim}, the model "
            f"has {config.table_rows} and {config.embedding_dim}"
        )
