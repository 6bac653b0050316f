"""A training step whose bits do not depend on the number of ranks.

A batch is always dealt to V virtual micro, each rank computing V / R of them one by one, so
every kernel sees the same shapes for any R. The gradients of all micro are summed over one
fixed tree: each rank sums a part of the elements for all V, then the parts are gathered.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.config.training import LossConfig
from dlrmjit.data.batch import Batch
from dlrmjit.data.batch_shard import cut, share_sizes, starts_of
from dlrmjit.errors import ConfigError
from dlrmjit.model.graph import cache_graph
from dlrmjit.ops.backend import FloatArray
from dlrmjit.parallel.comm import Comm
from dlrmjit.parallel.lookup import RecordedLookup, ShardedLookup, selected
from dlrmjit.parallel.model import PortGraph, ShardedDLRM
from dlrmjit.parallel.optimizer import AnyOptimizer, ShardedOptimizer
from dlrmjit.parallel.replicated import ReplicatedGradient
from dlrmjit.parallel.routing import ShardedBatch


class ReproducibleStep:
    """As :class:`~dlrmjit.parallel.step.ShardedStep`, over the micro of ``model.micro_batches``."""

    def __init__(
        self, model: ShardedDLRM, optimizer: AnyOptimizer = "sgd", loss: LossConfig | None = None
    ) -> None:
        if model.micro_batches % model.comm.size:
            raise ConfigError(
                f"{model.micro_batches} virtual shards cannot be dealt evenly to {model.comm.size} "
                "ranks; give a multiple"
            )
        self._model, self._loss = model, loss or LossConfig()
        self._updates = ShardedOptimizer(model, optimizer)
        self.optimizer = self._updates.optimizer
        replicated = model.sharded.replicated
        self._replicated = (
            None if replicated is None else ReplicatedGradient(model.backend, replicated)
        )
        self._batches: dict[int, Any] = {}

    def __call__(self, batch: Batch | ShardedBatch, rate: float) -> float:
        """Train on a batch with learning rate ``rate``; the loss of all ranks before the update."""
        model = self._model
        if isinstance(batch, Batch):
            batch = model.router.route(batch)
        if batch.n not in self._batches:
            cache_graph(self._batches, batch.n, _MicroBatches(model, batch.n, self._loss))
        micro: _MicroBatches = self._batches[batch.n]
        micro.receive(batch)
        done = [self._forward_backward(micro, share) for share in range(micro.count)]
        micro.lookup.post_gradient(micro.gradient)
        self._update(micro, np.stack([leaf for _, leaf in done]), rate)
        losses = np.array([[loss] for loss, _ in done], np.float64)
        return float(tree_sum(losses, model.comm)[0])

    def _forward_backward(self, micro: _MicroBatches, share: int) -> tuple[float, FloatArray]:
        """Loss of one share, and all gradients of replicated parameters side by side."""
        graph = micro.graph(share)
        graph.tape.forward()
        flat = []
        micro.dense = []
        for variable, gradient in graph.tape.backward(graph.loss):
            if variable is not graph.arrival:
                micro.dense.append((variable, gradient))
                flat.append(self._model.backend.flat(gradient).copy())
        if self._replicated is not None:
            self._replicated.accumulate(*micro.replicated_gradient(share))
            flat += [array.copy() for array in self._replicated.flat()]
        return float(graph.loss.data), np.concatenate(flat)

    def _update(self, micro: _MicroBatches, leaves: FloatArray, rate: float) -> None:
        summed = tree_sum(leaves, self._model.comm)
        flat = [self._model.backend.flat(gradient) for _, gradient in micro.dense]
        flat += [] if self._replicated is None else self._replicated.flat()
        start = 0
        for array in flat:
            array[...] = summed[start : start + array.size]
            start += array.size
        for parameter, gradient in micro.dense:
            self._updates.apply(parameter, gradient, rate)
        if self._replicated is not None:
            self._updates.apply(self._replicated.parameter, self._replicated.sparse(), rate)
        self._updates.apply_shards(micro.lookup, rate)


class _MicroBatches:
    """One rank's virtual micro of batches of ``n`` samples."""

    def __init__(self, model: ShardedDLRM, n: int, loss: LossConfig) -> None:
        self._model, self._n, self._loss = model, n, loss
        self.count = model.micro_batches // model.comm.size
        first = model.comm.rank * self.count
        self._starts = starts_of(share_sizes(n, model.micro_batches)[first : first + self.count])
        self.lookup: ShardedLookup = model.lookup(n)
        shape = (self._starts[-1], model.config.tables, model.config.embedding_dim)
        self._pooled = np.empty(shape, model.backend.dtype)
        self.gradient = np.empty(shape, model.backend.dtype)
        self.dense: list[tuple[Any, Any]] = []
        self._graphs: dict[int, PortGraph] = {}
        self._bounds = (0, 0)
        replicated = model.sharded.replicated
        self._replicated = (
            None if replicated is None else RecordedLookup(model.backend, replicated, None)
        )

    def receive(self, batch: ShardedBatch) -> None:
        """Make ``batch`` the next, and fetch its pooled embeddings."""
        self._local = batch.local
        self.lookup.load(batch)
        self.lookup.post()
        self.lookup.finish(self._pooled)

    def graph(self, share: int) -> PortGraph:
        """The graph of one share, loaded."""
        start, stop = self._bounds = self._starts[share], self._starts[share + 1]
        size, local = stop - start, self._local
        if size not in self._graphs:
            self._graphs[size] = PortGraph(self._model, size, self, self._loss, self._n)
        graph = self._graphs[size]
        offsets, indices = local.offsets[:, start : stop + 1], local.indices
        dense, labels = local.dense[start:stop], local.labels[start:stop]
        graph.load(Batch.unchecked(dense, indices, offsets, labels))
        return graph

    def finish(self, out: FloatArray) -> FloatArray:
        """The port of a graph: the pooled embeddings of the share at hand."""
        out[...] = self._pooled[slice(*self._bounds)]
        return out

    def post_gradient(self, gradient: FloatArray) -> None:
        """The port of a graph: keep the share's gradient until all are there."""
        self.gradient[slice(*self._bounds)] = gradient

    def replicated_gradient(self, share: int) -> tuple[Any, Any]:
        """Gradient of the replicated tables from one share, and the share's lookups in them."""
        assert self._replicated is not None
        start, stop = self._starts[share], self._starts[share + 1]
        tables = self._model.plan.replicated
        lookups = selected(cut(self._local, start, stop), tables)
        self._replicated.load(*lookups)
        gradient = np.ascontiguousarray(self.gradient[start:stop, list(tables)])
        return self._replicated.gradient(gradient), lookups


def tree_sum(leaves: NDArray[Any], comm: Comm) -> NDArray[Any]:
    """Sum of the rows of ``leaves`` (V / R, G) of all ranks, (G,), over one tree for any R.

    Neighbours are added, then neighbouring sums, until one is left. Every rank does so for a
    part of the columns, which changes no bit.
    """
    count, size = leaves.shape
    parts = share_sizes(size, comm.size)
    starts = starts_of(parts)
    sent = [leaves[:, a:b].reshape(-1) for a, b in pairwise(starts)]
    own = parts[comm.rank]
    received = np.empty(comm.size * count * own, leaves.dtype)
    comm.alltoallv(
        np.concatenate(sent),
        [count * part for part in parts],
        received,
        [count * own] * comm.size,
        name="allreduce",
    ).wait()
    summed = np.empty(size, leaves.dtype)
    part = _tree(received.reshape(comm.size * count, own))
    comm.allgatherv(part, summed, parts, name="allreduce").wait()
    return summed


def _tree(rows: NDArray[Any]) -> NDArray[Any]:
    while len(rows) > 1:
        even = len(rows) // 2 * 2
        with np.errstate(all="ignore"):  # the padding of blocks holds anything
            rows = np.concatenate([rows[0:even:2] + rows[1:even:2], rows[even:]])
    return np.ascontiguousarray(rows[0])
