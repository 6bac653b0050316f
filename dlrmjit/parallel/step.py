"""One training step of all ranks, with communication overlapped by computation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dlrmjit.autograd.tape import Parameter, Variable
from dlrmjit.config.list_loss import ListLoss
from dlrmjit.config.training import LossConfig
from dlrmjit.data.batch import Batch
from dlrmjit.errors import ConfigError, NonFiniteLossError
from dlrmjit.model.graph import cache_graph
from dlrmjit.ops.random_masks import DropoutKey
from dlrmjit.parallel.exchanges.gradients import GradientReducer
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.optimizer import AnyOptimizer, ShardedOptimizer
from dlrmjit.parallel.parts import PartedGraph
from dlrmjit.parallel.replicated import ReplicatedGradient
from dlrmjit.parallel.routing import ShardedBatch
from dlrmjit.perf.profile import Profile


class ShardedStep:
    """Trains a sharded model; every rank calls it with the same batches.

    Pooled vectors are exchanged during the forward of the bottom MLP, their gradients during its
    backward. The gradients of the MLPs are summed from the last layer on, during the backward of
    earlier layers, and each parameter is updated when its sum has arrived. With several ``parts``,
    the vectors of one part of a rank's samples travel while those before are computed; gradients of
    the parts are added in their order, so that the bits depend on their number. With
    ``checks_loss_first`` all ranks wait for the loss before they change anything, and a batch whose
    loss is not finite raises NonFiniteLossError; otherwise such a batch ruins the model. Dropout
    masks depend on ``seed``, on the number of the step and on the sample's position in the batch.
    ``on_seconds`` is called with the time of every step.

    Raises ConfigError for several parts with a loss of lists.
    """

    def __init__(
        self,
        model: ShardedModel,
        optimizer: AnyOptimizer = "sgd",
        loss: LossConfig | ListLoss | None = None,
        profile: Profile | None = None,
        *,
        checks_loss_first: bool = False,
        seed: int = 0,
        parts: int = 1,
        on_seconds: Callable[[float], None] | None = None,
    ) -> None:
        if parts > 1 and isinstance(loss, ListLoss):
            raise ConfigError(
                "micro-batches have equally many rows and would cut lists; leave out "
                "--micro-batches"
            )
        self._parts, self._on_seconds = parts, on_seconds
        self._model = model
        self._loss, self._checks_loss_first = loss or LossConfig(), checks_loss_first
        updates = ShardedOptimizer(model, optimizer)
        self.optimizer = updates.optimizer
        self._profile = profile
        self._apply = profile.timed_update(updates.apply) if profile else updates.apply
        self._apply_shards = updates.apply_shards
        if profile:
            self._apply_shards = profile.timed("embedding backward", updates.apply_shards)
        self._reducer = GradientReducer(model.comm)
        self._dropout_key = DropoutKey(seed)
        self._graphs: dict[tuple[int, ...], Any] = {}
        replicated = model.store.replicated
        self._replicated = (
            None if replicated is None else ReplicatedGradient(model.backend, replicated)
        )

    def start_at(self, step: int) -> None:
        """Draw dropout masks as after ``step`` steps."""
        self._dropout_key = self._dropout_key._replace(step=step)

    def graph(self, sizes: tuple[int, ...]) -> PartedGraph:
        """Return the recorded graphs for batches of ``sizes[r]`` samples of rank r."""
        if sizes not in self._graphs:
            graph = PartedGraph(self._model, sizes, self._loss, self._profile, self._parts)
            cache_graph(self._graphs, sizes, graph)
        found: PartedGraph = self._graphs[sizes]
        return found

    def __call__(self, batch: Batch | ShardedBatch, rate: float) -> float:
        """Train on a batch with learning rate ``rate``; return its loss, before the update."""
        with self._model.access.writing():
            return self._train(batch, rate)

    def _train(self, batch: Batch | ShardedBatch, rate: float) -> float:
        began = time.perf_counter()
        if isinstance(batch, Batch):
            batch = self._model.router.route(batch)
        graph = self.graph(batch.sizes)
        if self._profile:
            self._profile.start()
        graph.start(batch, self._dropout_key)
        if self._model.store.dynamic is not None:
            self.optimizer.restart(self._model.store.dynamic.restarted())
        self.start_at(self._dropout_key.step + 1)
        graph.forward()
        loss = np.array([graph.loss], np.float64)
        summed = self._model.comm.allreduce(loss, name="loss")
        if self._checks_loss_first:
            summed.wait()
            if not math.isfinite(loss[0]):
                raise NonFiniteLossError(float(loss[0]))
        self._backward(graph, rate)
        summed.wait()
        seconds = time.perf_counter() - began
        if self._on_seconds is not None:
            self._on_seconds(seconds)
        if self._profile:
            self._profile.count(batch.local.n, graph.lookup.rows_read(), seconds)
        return float(loss[0])

    def _backward(self, graph: PartedGraph, rate: float) -> None:
        missing = graph.arrivals
        for variable, gradient in graph.backward():
            if gradient is None:
                missing -= 1
                if not missing:
                    self._reduce_replicated(graph, rate)
            else:
                flat = self._model.backend.flat(gradient)
                self._reducer.add(flat, self._update(variable, gradient, rate))
        self._reducer.flush()  # sum the remaining gradients while tables are updated
        self._apply_shards(graph.lookup, rate)
        self._reducer.finish()

    def _update(self, parameter: Variable, gradient: Any, rate: float) -> Callable[[], None]:
        return lambda: self._apply(((parameter, gradient),), rate)

    def _reduce_replicated(self, graph: PartedGraph, rate: float) -> None:
        """Sum the gradients of replicated tables, and apply them when the last one has arrived."""
        replicated, gradient = self._replicated, graph.lookup.replicated_gradient()
        if replicated is None or gradient is None:
            return
        replicated.assign(gradient)
        missing = replicated.flat()

        def on_arrival() -> None:
            missing.pop()
            if not missing:
                self._apply_replicated(replicated, rate)

        for array in replicated.flat():
            self._reducer.add(array, on_arrival)

    def _apply_replicated(self, replicated: ReplicatedGradient, rate: float) -> None:
        parameter: Parameter = replicated.parameter
        self._apply(((parameter, replicated.sparse()),), rate)
