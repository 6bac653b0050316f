"""A model of many ranks: dense parameters on every rank, shards of tables as the plan says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dlrmjit.architecture.first_layer import FirstLayer
from dlrmjit.architecture.node import Node, ParameterSpec, Shape
from dlrmjit.architecture.nodes.concat import Concat
from dlrmjit.autograd.tape import Parameter, Variable
from dlrmjit.config.list_loss import ListLoss
from dlrmjit.config.model import AnyModelConfig
from dlrmjit.config.training import LossConfig
from dlrmjit.data.batch import Batch
from dlrmjit.errors import ConfigError, CopyError
from dlrmjit.model.graph import BatchPart, Graph, NodeRecording, cache_graph
from dlrmjit.model.model import Model
from dlrmjit.ops.backend import Backend, StoredArray
from dlrmjit.parallel.comm import Comm, Facts, require_agreement
from dlrmjit.parallel.lookup import ArrivalPort, EmbeddingPort, ShardedLookup
from dlrmjit.parallel.plan import Plan, one_width
from dlrmjit.parallel.routing import Router, ShardedBatch
from dlrmjit.parallel.tables import ShardedTables
from dlrmjit.perf.profile import Profile
from dlrmjit.precision import Precision, to_precision

T = TypeVar("T")


class ShardedModel(Model):
    """A :class:`~dlrmjit.model.model.Model` that is distributed over the ranks of ``comm``.

    Parameters
    ----------
    config, backend, rng, initialise, init, precision, seed : those of a Model, the same on every
        rank
    comm : the ranks
    plan : which rank has which shards of the tables
    strategy : how pooled vectors are exchanged, see :class:`PooledExchange`
    comm_dtype : ``bf16`` rounds the pooled vectors of tables that are not replicated, and their
        gradients, to the nearest BF16 numbers, which take half the bytes
    micro_batches : parts that every batch is split into, a multiple of the number of ranks;
        consecutive ones belong to the same rank. By default one per rank

    ``load_state`` expects whole tables, of which every rank copies its shards.

    Raises
    ------
    ConfigError
        If the plan is for other ranks or tables.
    RanksDifferError
        On every rank, if they make different models, or have other initial parameters.
    """

    store: ShardedTables

    def __init__(
        self,
        config: AnyModelConfig,
        comm: Comm,
        plan: Plan,
        *,
        backend: str | Backend | None = None,
        rng: np.random.RandomState | None = None,
        initialise: bool = True,
        init: str = "reference",
        strategy: str = "alltoall",
        comm_dtype: Precision = "fp32",
        micro_batches: int | None = None,
        precision: Precision = "fp32",
        seed: int = 123,
    ) -> None:
        _check_config(config, comm, plan)
        self.comm, self.plan = comm, plan
        self.micro_batches = micro_batches or comm.size
        self._sharded_predictions: dict[tuple[int, ...], PredictionGraph] = {}
        super().__init__(
            config,
            backend=backend,
            rng=rng,
            initialise=initialise,
            init=init,
            precision=precision,
            seed=seed,
            make_store=partial(
                ShardedTables,
                comm=comm,
                plan=plan,
                strategy=strategy,
                comm_dtype=comm_dtype,
                micro_batches=micro_batches,
            ),
        )
        if comm.size > 1:
            require_agreement(comm, self._facts(seed), "model")

    def _facts(self, seed: int) -> Facts:
        """Return what all ranks have in common, their parameters without tables as a digest."""
        facts = {f"the model's {name}": str(value) for name, value in self.config.to_dict().items()}
        facts["the plan"] = f"{self.plan.placements}, {self.plan.substituted}"
        names = ("precision", "init", "micro_batches")
        facts |= {f"{name} of the model": str(getattr(self, name)) for name in names}
        facts["the exchange of vectors"] = f"{self.store.strategy} in {self.store.comm_dtype}"
        facts["the backend"], facts["the seed"] = self.backend.name, str(seed)
        digest = hashlib.sha256()
        for name, values in super().dense_state().items():
            digest.update(name.encode() + np.asarray(values).tobytes())
        return facts | {"the digest of the initial parameters": digest.hexdigest()[:12]}

    def shapes_for(self, stored: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all parameters, which are whole tables.

        Raises ConfigError for a model with dynamic ids, whose rows have no order on many ranks.
        """
        if self.store.dynamic is not None:
            raise ConfigError(
                "the dynamic ids of many ranks are loaded from a checkpoint directory, not from "
                "arrays of whole tables"
            )
        return super().shapes_for(stored)

    def _make(self, name: str, spec: ParameterSpec) -> Parameter:
        layer = self.store.layers.layers.get(name)
        if layer is not None:
            spec = spec._replace(shape=self.store.layers.of_all(layer))
        return super()._make(name, spec)

    def _assign(self, name: str, values: StoredArray) -> None:
        layer = self.store.layers.layers.get(name)
        if layer is None or values.shape[1] < layer.inputs:
            super()._assign(name, values)
            return
        for part, array in self.store.layers.split(name, values).items():
            self._assign_columns(part, array)

    def _assign_columns(self, name: str, values: StoredArray) -> None:
        own = {parameter.name: parameter for parameter in self.store.layers.parameters}
        parameter = own.get(name) or self.dense[name]
        self.backend.assign_weight(parameter.data, np.asarray(values))

    def dense_parameters(self) -> tuple[Parameter, ...]:
        """Return those of all ranks, then columns of first layers that are this rank's."""
        return (*super().dense_parameters(), *self.store.layers.parameters)

    def dense_state(self) -> dict[str, StoredArray]:
        """Return copies of this rank's parameters; of first layers it may have some columns."""
        own = {
            parameter.name: to_precision(
                self.precision, self.backend.weight_to_numpy(parameter.data)
            )
            for parameter in self.store.layers.parameters
        }
        return super().dense_state() | own

    def load_dense(self, state: Mapping[str, StoredArray]) -> None:
        """Overwrite all parameters but the tables from whole weights, or from `dense_state`."""
        super().load_dense(state)
        for parameter in self.store.layers.parameters:
            if parameter.name in state:
                self._assign_columns(parameter.name, state[parameter.name])

    def whole_dense_state(self) -> dict[str, StoredArray]:
        """Return copies of all parameters but the tables, whole; all ranks call this."""
        joined = self.store.layers.joined(self.dense_state())
        for name in self.store.layers.layers:
            joined[name] = to_precision(self.precision, joined[name])
        return joined

    def stored(self) -> dict[str, StoredArray]:
        """Return all parameters, whole; all ranks call this."""
        return self._in_order(self.store.stored(), self.whole_dense_state())

    @property
    def router(self) -> Router:
        """The exchange of lookups."""
        return self.store.router

    def _attributes(self) -> dict[str, Any]:
        raise CopyError(
            "a model that is distributed over ranks cannot be copied or pickled; save it with "
            "dlrmjit.save and load it with dlrmjit.load"
        )

    def _views(self) -> dict[str, Any]:
        raise CopyError(
            "the parameters of a model that is distributed over ranks are in several processes; "
            "state_dict() copies them to this one"
        )

    def predict_proba(
        self, batch: Batch | ShardedBatch, *, threshold: float = 0.0
    ) -> NDArray[np.float32]:
        """Return the probabilities of this rank's samples of a batch; all ranks call this.

        Otherwise like :meth:`Model.predict_proba`.
        """
        return self._predict(batch, lambda graph: graph.predictions(threshold))

    def scores(self, batch: Batch | ShardedBatch) -> NDArray[np.float32]:
        """Return the logits of this rank's samples of a batch; all ranks call this."""
        return self._predict(batch, Graph.scores)

    def _predict(self, batch: Batch | ShardedBatch, result: Callable[[Graph], T]) -> T:
        with self.access.writing():  # one exchange at a time
            return self._predict_alone(batch, result)

    def _predict_alone(self, batch: Batch | ShardedBatch, result: Callable[[Graph], T]) -> T:
        if isinstance(batch, Batch):
            batch = self.router.route(batch)
        graph = self._sharded_predictions.get(batch.sizes)
        if graph is None:
            graph = PredictionGraph(self, batch.sizes)
            cache_graph(self._sharded_predictions, batch.sizes, graph)
        graph.start(batch)
        graph.tape.forward()
        return result(graph)


class PortGraph(Graph):
    """A graph that receives its pooled vectors from a port, and sends it their gradient."""

    port: ArrivalPort

    def recorded_nodes(self) -> tuple[Node, ...]:
        """Return the nodes, those that join vectors without vectors that other ranks multiply."""
        return tuple(map(self._without_vectors, super().recorded_nodes()))

    def _without_vectors(self, node: Node) -> Node:
        absent = {each.embedding for each in self._layers if each.joined == node.name}
        inputs = tuple(name for name in node.inputs if name not in absent)
        return Concat(node.name, inputs) if absent else node

    @property
    def _layers(self) -> Iterable[FirstLayer]:
        return self.port.layers.values()

    def is_recorded(self, name: str) -> bool:
        """Return whether anything is left of a node on this rank."""
        is_empty = any(each.joined == name and not each.others for each in self._layers)
        is_multiplied = any(each.embedding == name for each in self._layers)
        return not is_empty and (not is_multiplied or name in self.port.totals)

    def shape_of(self, name: str) -> Shape:
        """Return the shape of one sample of a node's result, without those vectors."""
        widths = [len(each.others) for each in self._layers if each.joined == name]
        return (widths[0],) if widths else super().shape_of(name)

    def products_of(self, recording: NodeRecording) -> Variable | None:
        """Return the products of a node's first layer that arrive, if any."""
        return self.port.record_products(recording)

    def __init__(
        self,
        model: Model,
        n: int,
        source: EmbeddingPort,
        loss: LossConfig | ListLoss | None,
        samples: int | None,
        profile: Profile | None = None,
        part: BatchPart | None = None,
    ) -> None:
        super().__init__(model, n, loss, samples, profile, ArrivalPort(source), part)

    def is_arrival(self, variable: Variable) -> bool:
        """Return whether a variable stands for pooled vectors, which have no update here."""
        return any(variable is arrival for arrival in self.port.arrivals.values())


class PredictionGraph(PortGraph):
    """One rank's graph to predict batches of ``sizes[r]`` samples of rank r, and its lookups."""

    def __init__(self, model: ShardedModel, sizes: tuple[int, ...]) -> None:
        self.lookup: ShardedLookup = model.store.lookup(sizes)
        super().__init__(model, sizes[model.comm.rank], self.lookup, None, sum(sizes))

    def start(self, batch: ShardedBatch) -> None:
        """Make ``batch`` the input of the next replay, and send its pooled vectors."""
        self.load(batch.local)
        self.lookup.load(batch)
        self.lookup.post()


def _check_config(config: AnyModelConfig, comm: Comm, plan: Plan) -> None:
    architecture = config.architecture
    for t, spec in enumerate(architecture.table_specs):
        kind = plan.placements[t].kind if t < len(plan.placements) else "whole"
        if architecture.is_learned(spec.node) and kind not in ("whole", "rows"):
            raise ConfigError(
                f"the plan for {spec.name} is {kind}, but learned weights of pooling need tables "
                "that are whole or split by rows; give such a plan"
            )
    if plan.ranks != comm.size:
        raise ConfigError(
            f"the plan is for {plan.ranks} ranks, but the job has {comm.size}; make a plan for "
            f"{comm.size} ranks, or start {plan.ranks}"
        )
    rows = tuple(spec.rows for spec in architecture.table_specs)
    dims = tuple(spec.dim for spec in architecture.table_specs)
    if (plan.table_rows, plan.dims) != (rows, dims):
        raise ConfigError(
            f"the plan is for tables of {plan.table_rows} rows and {plan.dim} columns, but the "
            f"model has {rows} and {one_width(dims)}; make a plan for this model"
        )
