"""One training step: forward, loss, backward, and the update of every parameter as it comes."""

from __future__ import annotations

from dlrmjit.config import LossConfig
from dlrmjit.data.batch import Batch
from dlrmjit.model import DLRM, Graph, remember
from dlrmjit.optim import make_optimizer


class TrainingStep:
    """Trains one model; keeps the recorded graph and its buffers for each batch size met."""

    def __init__(self, model: DLRM, optimizer: str = "sgd", loss: LossConfig | None = None) -> None:
        self._model = model
        self._loss = loss or LossConfig()
        self._optimizer = make_optimizer(optimizer, model.backend)
        self._graphs: dict[int, Graph] = {}

    def graph(self, n: int) -> Graph:
        """The recorded graph for batches of ``n`` samples."""
        if n not in self._graphs:
            remember(self._graphs, n, Graph(self._model, n, self._loss))
        return self._graphs[n]

    def __call__(self, batch: Batch, rate: float) -> float:
        """Train on ``batch`` with learning rate ``rate``; the loss before the update.

        Raises IndexRangeError or ShapeError for a batch that does not fit the model, which is
        unchanged then.
        """
        graph = self.graph(batch.n)
        graph.load(batch)
        graph.tape.forward()
        for parameter, gradient in graph.tape.backward(graph.loss):
            self._optimizer.apply(parameter, gradient, rate)
        return float(graph.loss.data)
