"""One training step: forward, loss, backward, and the update of every parameter."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

from dlrmjit.autograd.tape import Variable
from dlrmjit.config.list_loss import ListLoss
from dlrmjit.config.optimizer import OptimizerConfig, UpdateConfig
from dlrmjit.config.training import LossConfig
from dlrmjit.data.batch import Batch
from dlrmjit.data.list_batch import with_spare_rows
from dlrmjit.errors import NonFiniteLossError
from dlrmjit.model.graph import Graph, cache_graph
from dlrmjit.model.model import Model
from dlrmjit.ops.random_masks import DropoutKey
from dlrmjit.optim import Optimizer
from dlrmjit.optim.accumulation import Accumulator
from dlrmjit.optim.clipping import Clipper
from dlrmjit.optim.column_rates import table_rates
from dlrmjit.perf.profile import Profile, Update
from dlrmjit.training.agreement import refuse_distributed

Gradients: TypeAlias = Iterable[tuple[Variable, Any]]


class TrainingStep:
    """Trains one model; owns the recorded graphs and their buffers of the last batch sizes.

    A ``profile`` collects the time of every operation. Dropout masks depend on ``seed`` and on the
    number of the step, counted from ``first_step``. With a :class:`ListLoss`, batches are
    :class:`~dlrmjit.data.list_batch.ListBatch`. Raises ConfigError for a model that is distributed
    over ranks.
    """

    def __init__(
        self,
        model: Model,
        optimizer: str | OptimizerConfig | UpdateConfig = "sgd",
        loss: LossConfig | ListLoss | None = None,
        profile: Profile | None = None,
        *,
        seed: int = 0,
        first_step: int = 0,
    ) -> None:
        refuse_distributed(model, "ShardedStep of dlrmjit.parallel.step trains it")
        self._model = model
        self._loss = loss or LossConfig()
        self._profile = profile
        config = UpdateConfig.of(optimizer)
        self.optimizer = Optimizer(model.backend, config, table_rates(model, config))
        self.optimizer.prepare(model.parameters())
        self._clip = Clipper(model.backend, config.clip_norm) if config.clip_norm else None
        self._update = self._make_update()
        self._dropout_key = DropoutKey(seed, first_step)
        self._accumulated = Accumulator(model.backend)
        # Rows more would change the moments of a batch, and the mean of a loss of rows.
        self._may_add_rows = isinstance(self._loss, ListLoss) and not model.norms
        self._graphs: dict[int, Graph] = {}

    def start_at(self, step: int) -> None:
        """Draw dropout masks as after ``step`` steps."""
        self._dropout_key = DropoutKey(self._dropout_key.seed, step)

    def _make_update(self) -> Update:
        update = self.optimizer.apply
        return self._profile.timed_update(update) if self._profile else update

    def __deepcopy__(self, memo: dict[int, Any]) -> TrainingStep:
        """Return a step that trains a copy of the model."""
        made = memo[id(self)] = TrainingStep.__new__(TrainingStep)
        with self._model.access.reading():
            made.__setstate__(copy.deepcopy(self._attributes(), memo))
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled, all of one moment."""
        memo: dict[int, Any] = {}
        with self._model.access.reading():
            self._model.private_copy(memo)
            state = copy.deepcopy(self._attributes(), memo)
        return state | {"optimizer": vars(state["optimizer"])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.optimizer, dict):
            attributes, self.optimizer = self.optimizer, Optimizer.__new__(Optimizer)
            self.optimizer.__setstate__(attributes)
        self._update, self._graphs = self._make_update(), {}

    def _attributes(self) -> dict[str, Any]:
        """Return what a copy is made of; the rest is bound to this model."""
        return {k: value for k, value in vars(self).items() if k not in ("_update", "_graphs")}

    def graph(self, n: int) -> Graph:
        """Return the recorded graph for batches of ``n`` samples."""
        if n not in self._graphs:
            graph = Graph(self._model, n, self._loss, profile=self._profile)
            cache_graph(self._graphs, n, graph)
        return self._graphs[n]

    def __call__(self, batch: Batch, rate: float) -> float:
        """Train on ``batch`` with learning rate ``rate``; return the loss before the update.

        Raises IndexRangeError or ShapeError for a batch that does not match the model, and
        NonFiniteLossError for one whose loss is not finite; then the model is unchanged.
        """
        return self._run(batch, partial(self._update_all, rate))

    def accumulate(self, batch: Batch) -> float:
        """Add the gradients of ``batch`` to those of the next update; return its loss.

        No parameter changes. Raises as a call does.
        """
        return self._run(batch, self._accumulated.add)

    def apply_accumulated(self, rate: float) -> None:
        """Update with the gradients accumulated so far, if there are any."""
        if self._accumulated:
            with self._model.access.writing():
                self._update_all(rate, ())

    def _run(self, batch: Batch, use: Callable[[Gradients], None]) -> float:
        """Run forward and backward, pass the gradients to ``use``, and return the loss."""
        began = time.perf_counter()
        with self._model.access.writing():
            return self._run_alone(batch, use, began)

    def _run_alone(self, batch: Batch, use: Callable[[Gradients], None], began: float) -> float:
        loaded = with_spare_rows(batch) if self._may_add_rows else batch
        graph = self.graph(loaded.n)
        graph.load(loaded)
        if self._model.store.dynamic is not None:
            self.optimizer.restart(self._model.store.dynamic.restarted())
        graph.dropout_key.data = self._dropout_key
        moments = [norm.moments() for norm in self._model.norms.values()]
        graph.tape.forward()
        loss = float(graph.loss.data)
        self.start_at(self._dropout_key.step + 1)
        if not math.isfinite(loss):
            for norm, before in zip(self._model.norms.values(), moments, strict=True):
                norm.restore(before)
            raise NonFiniteLossError(loss)
        use(graph.tape.backward(graph.loss, in_runs=True))
        if self._profile:
            self._profile.count(batch.n, len(batch.indices), time.perf_counter() - began)
        return loss

    def _update_all(self, rate: float, gradients: Gradients) -> None:
        """Update tables as soon as their gradient is complete, other parameters by one call.

        Gradients to sum or to clip are all needed before.
        """
        if self._accumulated:
            self._accumulated.add(gradients)
            gradients = self._accumulated.pop()
        if self._clip is not None:
            gradients = list(gradients)
            self._clip(gradients)
        dense = []
        for each in gradients:
            if each[0].table_names:
                self._update((each,), rate)
            else:
                dense.append(each)
        if dense:
            self._update(dense, rate)
