"""A training step whose bits do not depend on the number of ranks.

A batch is always split into V micro-batches, of which each rank computes V / R one by one, so that
every kernel sees the same shapes for any R. The gradients of all micro-batches are summed over one
fixed tree: each rank sums a part of the elements for all V, then the parts are gathered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Variable
from dlrmjit.config.list_loss import ListLoss
from dlrmjit.config.training import LossConfig
from dlrmjit.data.batch import Batch
from dlrmjit.data.batch_shard import cut, share_sizes, starts_of
from dlrmjit.data.list_batch import ListBatch
from dlrmjit.errors import ConfigError, NonFiniteLossError
from dlrmjit.model.graph import BatchPart, cache_graph
from dlrmjit.ops.backend import FloatArray
from dlrmjit.ops.random_masks import DropoutKey
from dlrmjit.optim.clipping import SquaredNorms
from dlrmjit.parallel import batch_norm
from dlrmjit.parallel.comm import Comm
from dlrmjit.parallel.lookup import (
    LookupGradient,
    RecordedLookup,
    ShardedLookup,
)
from dlrmjit.parallel.model import PortGraph, ShardedModel
from dlrmjit.parallel.optimizer import AnyOptimizer, ShardedOptimizer
from dlrmjit.parallel.parts import samples_of
from dlrmjit.parallel.replicated import ReplicatedGradient
from dlrmjit.parallel.routing import ShardedBatch

_NO_LISTS = (
    "micro-batches of --reproducible have equally many rows and would cut lists; leave it out: "
    "the losses of 1, 2 and 3 ranks agree up to rounding without it"
)


class _Port:
    """Vectors and gradients of the current samples among those of all micro-batches."""

    def __init__(self, batches: _MicroBatches) -> None:
        self._batches, self.current = batches, slice(0, 0)
        self.totals: Mapping[str, int] = batches.lookup.totals
        self.layers = batches.lookup.layers

    def finish(self, node: str, out: FloatArray) -> FloatArray:
        """Fill ``out`` (n, S, E) with a node's pooled vectors."""
        out[...] = self._batches.pooled[node][self.current].reshape(out.shape)
        return out

    def post_gradient(self, node: str, gradient: FloatArray) -> None:
        """Store the gradient until those of all micro-batches are complete."""
        if not isinstance(gradient, np.ndarray):
            gradient = self._batches.model.backend.to_numpy(gradient)
        stored = self._batches.pooled_gradient[node][self.current]
        stored[...] = gradient.reshape(stored.shape)


class _Gradients(NamedTuple):
    """The loss of a micro-batch and the gradients of its replicated parameters.

    ``dense`` are views of its graph's buffers; ``flat`` is a copy of all of them in one dimension,
    ``squares`` their squared norm.
    """

    loss: float
    dense: list[tuple[Variable, Any]]
    flat: FloatArray
    squares: float


class GradientSquares(NamedTuple):
    """Squared norms of the gradient of the dense parameters, replicated tables excluded.

    ``share`` is the mean over the ``shares`` micro-batches of a batch of ``samples``, each with
    the gradient of its own mean loss; ``batch`` is that of the whole batch.
    """

    share: float
    batch: float
    shares: int
    samples: int


class ReproducibleStep:
    """Like :class:`~dlrmjit.parallel.step.ShardedStep`, one micro-batch of the model at a time.

    Where batches are normalised, the micro-batches wait for each other: all are in memory.
    ``on_squares`` is called on every rank after each step.

    Raises ConfigError unless the number of ranks divides ``model.micro_batches``.
    """

    def __init__(
        self,
        model: ShardedModel,
        optimizer: AnyOptimizer = "sgd",
        loss: LossConfig | ListLoss | None = None,
        *,
        seed: int = 0,
        on_squares: Callable[[GradientSquares], None] | None = None,
    ) -> None:
        if isinstance(loss, ListLoss):
            raise ConfigError(_NO_LISTS)
        if model.micro_batches % model.comm.size:
            raise ConfigError(
                f"{model.micro_batches} micro-batches cannot be distributed evenly over "
                f"{model.comm.size} ranks; give a multiple of {model.comm.size}"
            )
        if on_squares is not None and model.store.layers.layers:
            raise ConfigError(
                "norms of gradients are not known here, because ranks that exchange products of "
                "the first layer have columns of its weight; give --exchange=alltoall"
            )
        self._model, self._loss = model, loss or LossConfig()
        self._sharded_optimizer = ShardedOptimizer(model, optimizer)
        self.optimizer = self._sharded_optimizer.optimizer
        replicated = model.store.replicated
        self._replicated = (
            None if replicated is None else ReplicatedGradient(model.backend, replicated)
        )
        self._micro_batches: dict[int, _MicroBatches] = {}
        self._dropout_key = DropoutKey(seed)
        self._on_squares = on_squares
        self._squares_of = SquaredNorms(model.backend)

    def start_at(self, step: int) -> None:
        """Draw dropout masks as after ``step`` steps."""
        self._dropout_key = self._dropout_key._replace(step=step)

    def __call__(self, batch: Batch | ShardedBatch, rate: float) -> float:
        """Train on a batch with learning rate ``rate``; return its loss, before the update."""
        with self._model.access.writing():
            return self._train(batch, rate)

    def _train(self, batch: Batch | ShardedBatch, rate: float) -> float:
        model = self._model
        if isinstance(batch, Batch):
            batch = model.router.route(batch)
        if isinstance(batch.local, ListBatch):
            raise ConfigError(_NO_LISTS)
        if batch.n not in self._micro_batches:
            cache_graph(self._micro_batches, batch.n, _MicroBatches(model, batch.n, self._loss))
        micro_batches = self._micro_batches[batch.n]
        micro_batches.load(batch, self._dropout_key)
        self.start_at(self._dropout_key.step + 1)
        moments = [norm.moments() for norm in model.norms.values()]
        gradients = [one for group in micro_batches.groups() for one in self._gradients(group)]
        losses = np.array([[one.loss] for one in gradients], np.float64)
        loss = float(tree_sum(losses, model.comm)[0])
        if not math.isfinite(loss):
            for norm, before in zip(model.norms.values(), moments, strict=True):
                norm.restore(before)
            raise NonFiniteLossError(loss)
        micro_batches.send_gradients()
        self._update(micro_batches, gradients, rate)
        return loss

    def _gradients(self, group: _Group) -> list[_Gradients]:
        """Run micro-batches forward and backward, together."""
        graphs, comm = [one.graph() for one in group], self._model.comm
        batch_norm.forward(graphs, comm)
        dense: list[list[tuple[Variable, Any]]] = [[] for _ in group]
        for part, variable, gradient in batch_norm.backward(graphs, comm):
            if not graphs[part].is_arrival(variable):
                dense[part].append((variable, gradient))
        return [
            _Gradients(
                float(graph.loss.data),
                gradients,
                self._flat(one, gradients),
                self._squares(gradients),
            )
            for one, graph, gradients in zip(group, graphs, dense, strict=True)
        ]

    def _squares(self, dense: list[tuple[Variable, Any]]) -> float:
        """Return the squared norm of dense gradients, if it is wanted."""
        return sum(self._squares_of(*pair) for pair in dense) if self._on_squares else 0.0

    def _flat(self, one: _MicroBatch, dense: list[tuple[Variable, Any]]) -> FloatArray:
        flat = [self._model.backend.flat(gradient).copy() for _, gradient in dense]
        if self._replicated is not None:
            self._replicated.assign(one.batches.replicated_gradient(one.samples))
            flat += [array.copy() for array in self._replicated.flat()]
        return np.concatenate(flat)

    def _update(
        self, micro_batches: _MicroBatches, gradients: list[_Gradients], rate: float
    ) -> None:
        """Sum the gradients of all micro-batches, and update all parameters of this rank."""
        summed = tree_sum(np.stack([one.flat for one in gradients]), self._model.comm)
        dense = gradients[-1].dense  # its buffers take the sums
        arrays = [self._model.backend.flat(gradient) for _, gradient in dense]
        arrays += [] if self._replicated is None else self._replicated.flat()
        start = 0
        for array in arrays:
            array[...] = summed[start : start + array.size]
            start += array.size
        self._report_squares(micro_batches.n, gradients, self._squares(dense))
        apply = self._sharded_optimizer.apply
        apply(dense, rate)
        if self._replicated is not None:
            apply([(self._replicated.parameter, self._replicated.sparse())], rate)
        self._sharded_optimizer.apply_shards(micro_batches.lookup, rate)

    def _report_squares(self, n: int, gradients: list[_Gradients], batch: float) -> None:
        """Report the squared norms of the micro-batches, whose losses are shares of the mean."""
        if self._on_squares is None:
            return
        shares = self._model.micro_batches
        each = np.array([[one.squares] for one in gradients], np.float64)
        total = float(tree_sum(each, self._model.comm)[0])
        self._on_squares(GradientSquares(shares * total, batch, shares, n))


class _MicroBatches:
    """One rank's micro-batches of batches of ``n`` samples.

    The pooled vectors of all are received at once, and their gradients are sent at once.
    """

    def __init__(self, model: ShardedModel, n: int, loss: LossConfig) -> None:
        self.model, self.n, self.loss = model, n, loss
        count = model.micro_batches // model.comm.size
        first, sizes = model.comm.rank * count, share_sizes(n, model.micro_batches)
        starts = starts_of(sizes[first : first + count])
        self.first_sample = sum(sizes[:first])
        self.lookup: ShardedLookup = model.store.lookup(model.router.sizes(n))
        self.pooled, self.pooled_gradient = self._empty(starts[-1]), self._empty(starts[-1])
        graphs: dict[int, _RecordedGraph] = {}  # by size: two sizes differ by one sample
        self._all = [
            _MicroBatch(self, slice(*ends), number, {} if model.norms else graphs)
            for number, ends in enumerate(pairwise(starts))
        ]
        replicated = model.store.replicated
        self._replicated = (
            None if replicated is None else RecordedLookup(model.backend, replicated, None)
        )

    def _empty(self, n: int) -> dict[str, FloatArray]:
        """Allocate vectors (n, S, E) and totals (n, W) of this rank, all that arrives."""
        dtype, shapes = self.model.backend.dtype, self.lookup.shapes
        return {key: np.empty((n, *shape), dtype) for key, shape in shapes.items()}

    def groups(self) -> list[_Group]:
        """Return the micro-batches that run together: all if they are normalised, else one each."""
        return [self._all] if self.model.norms else [[one] for one in self._all]

    def load(self, batch: ShardedBatch, key: DropoutKey) -> None:
        """Make ``batch`` the current one, and receive its pooled vectors."""
        self.local, self.dropout_key = batch.local, key
        self.lookup.load(batch)
        self.lookup.post()
        for node, pooled in self.pooled.items():
            self.lookup.finish(node, pooled)

    def send_gradients(self) -> None:
        """Send the gradients of all micro-batches."""
        for node, gradient in self.pooled_gradient.items():
            self.lookup.post_gradient(node, gradient)

    def replicated_gradient(self, samples: slice) -> LookupGradient:
        """Return the gradient of the replicated tables from some of this rank's samples."""
        assert self._replicated is not None
        store = self.model.store
        lookups = store.replicated_lookups(cut(self.local, samples.start, samples.stop))
        self._replicated.load(lookups)
        gradients = {
            node: self.lookup.replicated_gradients(node, array[samples], samples)
            for node, array in self.pooled_gradient.items()
        }
        pooled = store.replicated_vectors(gradients)
        return LookupGradient(self._replicated.gradient(pooled), lookups)


class _RecordedGraph(NamedTuple):
    """A graph, and where it gets its pooled vectors."""

    graph: PortGraph
    port: _Port


@dataclass(frozen=True)
class _MicroBatch:
    """Some of a rank's ``samples``; those with the same ``graphs`` use one for each size."""

    batches: _MicroBatches
    samples: slice
    number: int
    graphs: dict[int, _RecordedGraph]

    def graph(self) -> PortGraph:
        """Return the graph with the input of this micro-batch."""
        batches, first, stop = self.batches, self.samples.start, self.samples.stop
        size, model = stop - first, batches.model
        if size not in self.graphs:
            port, part = _Port(batches), BatchPart(averages=self.number == 0)
            graph = PortGraph(model, size, port, batches.loss, batches.n, part=part)
            self.graphs[size] = _RecordedGraph(graph, port)
        graph, port = self.graphs[size]
        port.current = self.samples
        graph.load(samples_of(batches.local, self.samples))
        graph.dropout_key.data = batches.dropout_key._replace(first=batches.first_sample + first)
        return graph


_Group = list[_MicroBatch]


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
