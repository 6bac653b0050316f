"""One training step: forward, loss, backward, and the update of every parameter as it comes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from dlrmjit.autograd import Variable
from dlrmjit.config import LossConfig
from dlrmjit.data.batch import Batch
from dlrmjit.model import DLRM, Graph, remember
from dlrmjit.optim import Optimizer
from dlrmjit.optim.clipping import Clipper
from dlrmjit.optimizer_config import OptimizerConfig, UpdateConfig
from dlrmjit.profile import Profile


class TrainingStep:
    """Trains one model; keeps the recorded graph and its buffers for each batch size met.

    With a ``profile`` every operation is timed into it. What dropout drops follows from
    ``seed`` and from the number of the step, counted from ``first_step``.
    """

    def __init__(
        self,
        model: DLRM,
        optimizer: str | OptimizerConfig | UpdateConfig = "sgd",
        loss: LossConfig | None = None,
        profile: Profile | None = None,
        *,
        seed: int = 0,
        first_step: int = 0,
    ) -> None:
        self._model = model
        self._loss = loss or LossConfig()
        self._profile = profile
        config = UpdateConfig.of(optimizer)
        self.optimizer = Optimizer(model.backend, config)
        self.optimizer.prepare(model.parameters())
        self._clip = Clipper(model.backend, config.clip_norm) if config.clip_norm else None
        update = self.optimizer.apply
        self._update = profile.timed_update(update) if profile else update
        self._moment = (seed, first_step)
        self._graphs: dict[int, Graph] = {}

    def graph(self, n: int) -> Graph:
        """The recorded graph for batches of ``n`` samples."""
        if n not in self._graphs:
            graph = Graph(self._model, n, self._loss, profile=self._profile)
            remember(self._graphs, n, graph)
        return self._graphs[n]

    def __call__(self, batch: Batch, rate: float) -> float:
        """Train on ``batch`` with learning rate ``rate``; the loss before the update.

        Raises IndexRangeError or ShapeError for a batch that does not fit the model, which is
        unchanged then.
        """
        began = time.perf_counter()
        graph = self.graph(batch.n)
        graph.load(batch)
        graph.moment.data = self._moment
        graph.tape.forward()
        for parameter, gradient in self._gradients(graph):
            self._update(parameter, gradient, rate)
        self._moment = (self._moment[0], self._moment[1] + 1)
        if self._profile:
            self._profile.count(batch.n, len(batch.indices), time.perf_counter() - began)
        return float(graph.loss.data)

    def _gradients(self, graph: Graph) -> Iterable[tuple[Variable, Any]]:
        """Every gradient as it comes; all at once where they are clipped."""
        gradients = graph.tape.backward(graph.loss)
        if self._clip is None:
            return gradients
        collected = list(gradients)
        self._clip(collected)
        return collected
