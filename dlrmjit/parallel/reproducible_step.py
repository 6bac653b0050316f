"""A training step whose bits do not depend on the number of ranks.

A batch is always split into V micro-batches, of which each rank computes V / R one by one, so that
every kernel sees the same shapes for any R. The gradients of all micro-batches are summed over one
fixed tree: each rank sums a part of the elements for all V, then the parts are gathered.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Variable
from dlrmjit.config.training import LossConfig
from dlrmjit.data.batch import Batch
from dlrmjit.data.batch_shard import cut, share_sizes, starts_of
from dlrmjit.errors import ConfigError, NonFiniteLossError
from dlrmjit.model.graph import cache_graph
from dlrmjit.ops.backend import FloatArray
from dlrmjit.parallel.comm import Comm
from dlrmjit.parallel.lookup import (
    LookupGradient,
    RecordedLookup,
    ShardedLookup,
)
from dlrmjit.parallel.model import PortGraph, ShardedModel
from dlrmjit.parallel.optimizer import AnyOptimizer, ShardedOptimizer
from dlrmjit.parallel.replicated import ReplicatedGradient
from dlrmjit.parallel.routing import ShardedBatch


class _Gradients(NamedTuple):
    """The loss of a micro-batch and the gradients of its replicated parameters.

    ``dense`` are views of its graph's buffers; ``flat`` is a copy of all of them in one dimension.
    """

    loss: float
    dense: list[tuple[Variable, Any]]
    flat: FloatArray


class ReproducibleStep:
    """Like :class:`~dlrmjit.parallel.step.ShardedStep`, one micro-batch of the model at a time.

    Raises ConfigError unless the number of ranks divides ``model.micro_batches``.
    """

    def __init__(
        self, model: ShardedModel, optimizer: AnyOptimizer = "sgd", loss: LossConfig | None = None
    ) -> None:
        if model.micro_batches % model.comm.size:
            raise ConfigError(
                f"{model.micro_batches} micro-batches cannot be distributed evenly over "
                f"{model.comm.size} ranks; give a multiple of {model.comm.size}"
            )
        self._model, self._loss = model, loss or LossConfig()
        self._sharded_optimizer = ShardedOptimizer(model, optimizer)
        self.optimizer = self._sharded_optimizer.optimizer
        replicated = model.store.replicated
        self._replicated = (
            None if replicated is None else ReplicatedGradient(model.backend, replicated)
        )
        self._micro_batches: dict[int, _MicroBatches] = {}

    def __call__(self, batch: Batch | ShardedBatch, rate: float) -> float:
        """Train on a batch with learning rate ``rate``; return its loss, before the update."""
        with self._model.access.writing():
            return self._train(batch, rate)

    def _train(self, batch: Batch | ShardedBatch, rate: float) -> float:
        model = self._model
        if isinstance(batch, Batch):
            batch = model.router.route(batch)
        if batch.n not in self._micro_batches:
            cache_graph(self._micro_batches, batch.n, _MicroBatches(model, batch.n, self._loss))
        micro_batches = self._micro_batches[batch.n]
        micro_batches.load(batch)
        gradients = [self._gradients(micro_batches, i) for i in range(micro_batches.count)]
        losses = np.array([[loss] for loss, _, _ in gradients], np.float64)
        loss = float(tree_sum(losses, model.comm)[0])
        if not math.isfinite(loss):
            raise NonFiniteLossError(loss)
        micro_batches.send_gradients()
        self._update(micro_batches.lookup, gradients, rate)
        return loss

    def _gradients(self, micro_batches: _MicroBatches, index: int) -> _Gradients:
        """Run one micro-batch forward and backward."""
        graph = micro_batches.graph(index)
        graph.tape.forward()
        dense = [
            (variable, gradient)
            for variable, gradient in graph.tape.backward(graph.loss)
            if not graph.is_arrival(variable)
        ]
        flat = [self._model.backend.flat(gradient).copy() for _, gradient in dense]
        if self._replicated is not None:
            self._replicated.assign(micro_batches.replicated_gradient(index))
            flat += [array.copy() for array in self._replicated.flat()]
        return _Gradients(float(graph.loss.data), dense, np.concatenate(flat))

    def _update(self, lookup: ShardedLookup, gradients: list[_Gradients], rate: float) -> None:
        """Sum the gradients of all micro-batches, and update all parameters of this rank."""
        summed = tree_sum(np.stack([flat for _, _, flat in gradients]), self._model.comm)
        dense = gradients[-1].dense  # its buffers take the sums
        arrays = [self._model.backend.flat(gradient) for _, gradient in dense]
        arrays += [] if self._replicated is None else self._replicated.flat()
        start = 0
        for array in arrays:
            array[...] = summed[start : start + array.size]
            start += array.size
        apply = self._sharded_optimizer.apply
        for parameter, gradient in dense:
            apply(parameter, gradient, rate)
        if self._replicated is not None:
            apply(self._replicated.parameter, self._replicated.sparse(), rate)
        self._sharded_optimizer.apply_shards(lookup, rate)


class _MicroBatches:
    """One rank's micro-batches of batches of ``n`` samples; the port of their graphs.

    The pooled vectors of all are received at once, and their gradients are sent at once.
    """

    def __init__(self, model: ShardedModel, n: int, loss: LossConfig) -> None:
        self._model, self._n, self._loss = model, n, loss
        self.count = model.micro_batches // model.comm.size
        first = model.comm.rank * self.count
        self._starts = starts_of(share_sizes(n, model.micro_batches)[first : first + self.count])
        self.lookup: ShardedLookup = model.store.lookup(n)
        self._pooled = self._empty()
        self.pooled_gradient = self._empty()
        self._graphs: dict[int, PortGraph] = {}  # by size: two sizes differ by one sample
        self._current = slice(0, 0)
        replicated = model.store.replicated
        self._replicated = (
            None if replicated is None else RecordedLookup(model.backend, replicated, None)
        )

    def _empty(self) -> dict[str, FloatArray]:
        """Allocate vectors (n, S, E) of this rank's samples for every embedding node."""
        dtype, n = self._model.backend.dtype, self._starts[-1]
        nodes = self._model.architecture.embeddings
        return {node.name: np.empty((n, *node.pooled_shape), dtype) for node in nodes}

    def load(self, batch: ShardedBatch) -> None:
        """Make ``batch`` the current one, and receive its pooled vectors."""
        self._local = batch.local
        self.lookup.load(batch)
        self.lookup.post()
        for node, pooled in self._pooled.items():
            self.lookup.finish(node, pooled)

    def graph(self, index: int) -> PortGraph:
        """Return the graph of one micro-batch, with its input loaded."""
        start, stop = self._starts[index], self._starts[index + 1]
        self._current = slice(start, stop)
        size, local = stop - start, self._local
        if size not in self._graphs:
            self._graphs[size] = PortGraph(self._model, size, self, self._loss, self._n)
        graph = self._graphs[size]
        offsets, indices = local.offsets[:, start : stop + 1], local.indices
        dense, labels = local.dense[start:stop], local.labels[start:stop]
        graph.load(Batch.unchecked(dense, indices, offsets, labels))
        return graph

    def finish(self, node: str, out: FloatArray) -> FloatArray:
        """Fill ``out`` (n, S, E) with a node's pooled vectors of the current micro-batch."""
        out[...] = self._pooled[node][self._current]
        return out

    def post_gradient(self, node: str, gradient: FloatArray) -> None:
        """Store the gradient of the current micro-batch until those of all are complete."""
        self.pooled_gradient[node][self._current] = gradient

    def send_gradients(self) -> None:
        """Send the gradients of all micro-batches."""
        for node, gradient in self.pooled_gradient.items():
            self.lookup.post_gradient(node, gradient)

    def replicated_gradient(self, index: int) -> LookupGradient:
        """Return the gradient of the replicated tables from one micro-batch."""
        assert self._replicated is not None
        start, stop = self._starts[index], self._starts[index + 1]
        store = self._model.store
        lookups = store.replicated_lookups(cut(self._local, start, stop))
        self._replicated.load(lookups)
        gradients = {node: array[start:stop] for node, array in self.pooled_gradient.items()}
        pooled = store.replicated_vectors(gradients)
        return LookupGradient(self._replicated.gradient(pooled), lookups)


def tree_sum(leaves: NDArray[Any], comm: Comm) -> NDArray[Any]:
    """Return the sum (G,) of the rows of ``leaves`` (V / R, G) of all ranks, over one tree.

    Neighbouring rows are added, then neighbouring sums, until one is left. Every rank does this for
    a part of the columns, so that the bits do not depend on R.
    """
    count, size = leaves.shape
    parts = share_sizes(size, comm.size)
    starts = starts_of(parts)
    sent = [leaves[:, first:last].reshape(-1) for first, last in pairwise(starts)]
    columns = parts[comm.rank]
    received = np.empty(comm.size * count * columns, leaves.dtype)
    comm.alltoallv(
        np.concatenate(sent),
        [count * part for part in parts],
        received,
        [count * columns] * comm.size,
        name="allreduce",
    ).wait()
    summed = np.empty(size, leaves.dtype)
    part = _tree(received.reshape(comm.size * count, columns))
    comm.allgatherv(part, summed, parts, name="allreduce").wait()
    return summed


def _tree(rows: NDArray[Any]) -> NDArray[Any]:
    while len(rows) > 1:
        even = len(rows) // 2 * 2
        with np.errstate(all="ignore"):  # the padding of blocked layouts is undefined
            rows = np.concatenate([rows[0:even:2] + rows[1:even:2], rows[even:]])
    return np.ascontiguousarray(rows[0])
