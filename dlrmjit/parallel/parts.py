"""The samples of a rank in parts, whose pooled vectors travel while other parts are computed.

All parts go forward one after the other, so that the first computes while the vectors of the others
are on their way. They go backward together, parameter by parameter: the gradient of a parameter is
complete as early as without parts, and can be summed over the ranks meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dlrmjit.autograd.tape import Variable
from dlrmjit.config.list_loss import ListLoss
from dlrmjit.config.training import LossConfig
from dlrmjit.data.batch import Batch
from dlrmjit.model.graph import BatchPart
from dlrmjit.ops.random_masks import DropoutKey
from dlrmjit.parallel import batch_norm
from dlrmjit.parallel.lookup import LookupPart, ShardedLookup
from dlrmjit.parallel.model import PortGraph, ShardedModel
from dlrmjit.parallel.routing import ShardedBatch
from dlrmjit.perf.profile import Profile


class PartedGraph:
    """One rank's graphs for batches of ``sizes[r]`` samples of rank r, and its lookups.

    Every rank has as many ``parts``, fewer if some rank has fewer samples.
    """

    def __init__(
        self,
        model: ShardedModel,
        sizes: tuple[int, ...],
        loss: LossConfig | ListLoss,
        profile: Profile | None = None,
        parts: int = 1,
    ) -> None:
        count = max(1, min(parts, *sizes))
        self._model, self.first_sample = model, sum(sizes[: model.comm.rank])
        self.lookup: ShardedLookup = model.store.lookup(sizes, training=True, parts=count)
        self._rows = [self.lookup.rows_of(part) for part in range(count)]
        self.graphs = [
            PortGraph(
                model,
                rows.stop - rows.start,
                LookupPart(self.lookup, part),
                loss,
                sum(sizes),
                profile,
                BatchPart(averages=part == 0),
            )
            for part, rows in enumerate(self._rows)
        ]
        post = self.lookup.post
        self._post = profile.timed("embedding forward", post) if profile else post

    @property
    def arrivals(self) -> int:
        """Number of results of :meth:`backward` that are gradients of pooled vectors."""
        return sum(len(graph.port.arrivals) for graph in self.graphs)

    @property
    def loss(self) -> float:
        """This rank's share of the loss."""
        return float(sum(graph.loss.data for graph in self.graphs))

    def start(self, batch: ShardedBatch, key: DropoutKey) -> None:
        """Make ``batch`` the input of the next replay, and send its pooled vectors."""
        for graph, rows in zip(self.graphs, self._rows, strict=True):
            is_whole = len(self.graphs) == 1
            graph.load(batch.local if is_whole else samples_of(batch.local, rows))
            graph.dropout_key.data = key._replace(first=self.first_sample + rows.start)
        self.lookup.load(batch)
        self._post()

    def forward(self) -> None:
        """Compute the loss of every part."""
        batch_norm.forward(self.graphs, self._model.comm)

    def backward(self) -> Iterator[tuple[Variable, Any]]:
        """Yield variables with their gradients, as :meth:`Tape.backward` does, summed over parts.

        Those of pooled vectors, whose gradient is sent, are yielded once for each part.
        """
        sums: dict[int, Any] = {}
        add, last = self._model.backend.add, len(self.graphs) - 1
        for part, variable, gradient in batch_norm.backward(self.graphs, self._model.comm):
            if self.graphs[part].is_arrival(variable):
                yield variable, None
                continue
            # The buffers of the first part take the sums, in the order of the parts.
            total = add(sums.pop(id(variable)), gradient) if part else gradient
            if part == last:
                yield variable, total
            else:
                sums[id(variable)] = total


def samples_of(batch: Batch, rows: slice) -> Batch:
    """Return some samples of a batch for a graph that is given its pooled vectors.

    Its lookups are those of the whole batch.
    """
    each = batch.sample_weights
    return Batch.unchecked(
        batch.dense[rows],
        batch.indices,
        batch.offsets[:, rows.start : rows.stop + 1],
        batch.labels[rows],
        sample_weights=None if each is None else each[rows],
    )
