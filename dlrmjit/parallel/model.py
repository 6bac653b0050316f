"""The DLRM of many ranks: MLPs on every rank, shards of tables as the plan says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
from dlrmjit.parallel.lookup import ARRIVE, EmbeddingPort, ShardedLookup
from dlrmjit.parallel.plan import Plan, Shard
from dlrmjit.parallel.routing import Router, ShardedBatch
from dlrmjit.parallel.tables import ShardedTables
from dlrmjit.perf.profile import Profile
from dlrmjit.precision import Precision


class ShardedDLRM(DLRM):
    """A :class:`~dlrmjit.model.dlrm.DLRM` that is distributed over the ranks of ``comm``.

    Parameters
    ----------
    config, backend, rng, initialise, init, precision, seed : those of a DLRM, the same on every
        rank
    comm : the ranks
    plan : which rank has which shards of the tables
    strategy : how pooled vectors are exchanged, see :class:`PooledExchange`
    micro_batches : parts that every batch is split into, a multiple of the number of ranks;
        consecutive ones belong to the same rank. By default one per rank

    ``load_state`` expects whole tables, of which every rank copies its shards.

    Raises
    ------
    ConfigError
        If the plan is for other ranks or tables, or the model needs one process.
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
        _check_config(config, comm, plan)
        self.comm, self.plan, self.strategy = comm, plan, strategy
        self.micro_batches = micro_batches or comm.size
        self.router = Router(comm, plan, self.micro_batches)
        self._sharded_predictions: dict[int, ShardedGraph] = {}
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
        """This rank's shards of the tables."""
        tables: ShardedTables = self.tables.data
        return tables

    def _make_tables(self) -> ShardedTables:
        return ShardedTables(self.backend, self.plan, self.comm.rank, self.precision)

    def _init_tables_from_counter(self, seed: int) -> None:
        for parameter, shards in self.sharded.parameters():
            self.backend.initialise(parameter.data, seed, [self._origin(s) for s in shards])

    def _origin(self, shard: Shard) -> Origin:
        rows = self.plan.table_rows[shard.table]
        offsets = shard.first_row, shard.row_step, shard.first_col
        return Origin(shard.table, rows, self.plan.dim, *offsets)

    def _init_tables_from_rng(self, rng: np.random.RandomState) -> None:
        self.sharded.draw(rng)

    def _table_values(self) -> Iterable[StoredArray]:
        return (values for _, values in self.sharded.shard_values())

    def stored(self) -> dict[str, StoredArray]:
        """Return all parameters on every rank, which must have the memory for them."""
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
        """Return this rank's parameters: its shards, the replicated tables, the MLPs."""
        return (*(p for p, _ in self.sharded.parameters()), *self.bottom, *self.top)

    def lookup(self, n: int) -> ShardedLookup:
        """Return a new lookup operation for batches of ``n`` samples."""
        sizes = self.router.sizes(n)
        exchange = PooledExchange(self.comm, self.plan, sizes, self.strategy, self.backend.dtype)
        return ShardedLookup(self.backend, self.sharded, exchange)

    def predict_proba(
        self, batch: Batch | ShardedBatch, *, threshold: float = 0.0
    ) -> NDArray[np.float32]:
        """Return the probabilities of this rank's samples of a batch; all ranks call this.

        Otherwise like :meth:`DLRM.predict_proba`.
        """
        if isinstance(batch, Batch):
            batch = self.router.route(batch)
        graph = self._sharded_predictions.get(batch.n)
        if graph is None:
            graph = ShardedGraph(self, batch.n)
            cache_graph(self._sharded_predictions, batch.n, graph)
        graph.start(batch)
        graph.tape.forward()
        return self.backend.probabilities(graph.logits.data, threshold)


class PortGraph(Graph):
    """A graph that receives its pooled vectors from a port, and sends it their gradient."""

    def __init__(
        self,
        model: DLRM,
        n: int,
        port: EmbeddingPort,
        loss: LossConfig | None,
        samples: int | None,
        profile: Profile | None = None,
    ) -> None:
        self.port = port
        self.arrival = Variable(name="arrival", requires_grad=True)
        self._shape = (n, model.config.tables, model.config.embedding_dim)
        rules = {ARRIVE.name: ARRIVE}
        self._arrive = (profile.rules(rules) if profile else rules)[ARRIVE.name]
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
        """Do nothing: the port has the lookups."""


class ShardedGraph(PortGraph):
    """One rank's graph for batches of ``n`` samples, and its lookups in the sharded tables."""

    def __init__(
        self,
        model: ShardedDLRM,
        n: int,
        loss: LossConfig | None = None,
        profile: Profile | None = None,
    ) -> None:
        self.lookup = model.lookup(n)
        local_n = model.router.sizes(n)[model.comm.rank]
        super().__init__(model, local_n, self.lookup, loss, n, profile)
        post = self.lookup.post
        self._post = profile.timed("embedding forward", post) if profile else post

    def start(self, batch: ShardedBatch) -> None:
        """Make ``batch`` the input of the next replay, and send its pooled vectors."""
        self.load(batch.local)
        self.lookup.load(batch)
        self._post()


def _check_config(config: ModelConfig, comm: Comm, plan: Plan) -> None:
    if config.dropout or config.batch_norm:
        raise ConfigError(
            "dropout and batch normalisation need one process and no --reproducible; "
            "start one rank, or leave them out"
        )
    if config.table_dims:
        raise ConfigError(
            "tables of several widths need one process and no --reproducible; "
            "start one rank, or give all tables one width"
        )
    if plan.ranks != comm.size:
        raise ConfigError(
            f"the plan is for {plan.ranks} ranks, but the job has {comm.size}; make a plan for "
            f"{comm.size} ranks, or start {plan.ranks}"
        )
    if (plan.table_rows, plan.dim) != (config.table_rows, config.embedding_dim):
        raise ConfigError(
            f"the plan is for tables of {plan.table_rows} rows and {plan.dim} columns, but the "
            f"model has {config.table_rows} and {config.embedding_dim}; make a plan for this model"
        )
