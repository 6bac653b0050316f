"""Looking up and updating sharded tables for batches of one size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Parameter, Rule, Step, Tape, Variable
from dlrmjit.data.batch import Batch
from dlrmjit.ops.backend import Backend, FloatArray
from dlrmjit.parallel.exchange import PooledExchange
from dlrmjit.parallel.plan import Shard
from dlrmjit.parallel.routing import ShardedBatch
from dlrmjit.parallel.tables import ShardedTables

Gradients = Iterator[tuple[Parameter, Any]]


class RecordedLookup:
    """A recorded lookup in one parameter, replayed with new lookups."""

    def __init__(self, backend: Backend, parameter: Parameter, out: FloatArray | None) -> None:
        self._backend, self.parameter, self._out = backend, parameter, out
        self._lookups, self._tape = Variable(), Tape()
        self._pooled = self._tape.record(
            backend.rules["embedding_bag"], parameter, self._lookups, out=out
        )

    def load(self, indices: NDArray[Any], offsets: NDArray[np.int64]) -> None:
        """Set the lookups; raises IndexRangeError for one outside."""
        base, end = int(offsets[0, 0]), int(offsets[-1, -1])
        self._lookups.data = self._backend.lookups(
            self.parameter.data, indices[base:end], offsets - base
        )

    def pool(self) -> FloatArray:
        """The pooled vectors (N, shards, W), in ``out`` when there is one."""
        self._tape.forward()
        pooled: FloatArray = self._pooled.data
        if self._out is not None and pooled is not self._out:
            self._out[...] = pooled
        return pooled

    def gradient(self, pooled_gradient: FloatArray) -> Any:
        """The parameter's gradient, which applies itself."""
        return next(iter(self._tape.backward(self._pooled, pooled_gradient)))[1]


class ShardedLookup:
    """Lookups of one batch size in the tables of all ranks.

    ``post`` pools and sends, ``finish`` receives; ``post_gradient`` sends gradients back and
    ``gradients`` receives those of the shards. In between, this rank may compute.
    """

    def __init__(self, backend: Backend, tables: ShardedTables, exchange: PooledExchange) -> None:
        self._plan, self._exchange, self._dtype = tables.plan, exchange, backend.dtype
        self._shards = [shard for group in tables.groups for shard in group.shards]
        self._views = [view for _, view in exchange.group_views()]
        self._bags = [
            RecordedLookup(backend, group.parameter, view)
            for group, view in zip(tables.groups, self._views, strict=True)
        ]
        self._ends = np.cumsum([0, *(group.count for group in tables.groups)])
        self._replicated = None
        if tables.replicated is not None:
            self._replicated = RecordedLookup(backend, tables.replicated, None)
        self._replicated_gradient: Any = None
        self.replicated_lookups: Any = None

    def load(self, batch: ShardedBatch) -> None:
        """Set the lookups of the next replay."""
        self._batch = batch
        for bags, a, b in zip(self._bags, self._ends, self._ends[1:], strict=False):
            bags.load(batch.indices, batch.offsets[a:b])
        if self._replicated is not None:
            self.replicated_lookups = selected(batch.local, self._plan.replicated)
            self._replicated.load(*self.replicated_lookups)

    def rows(self) -> dict[Shard, NDArray[Any]]:
        """What the whole batch looks up in each of this rank's shards, bag after bag."""
        batch = self._batch
        spans = zip(self._shards, batch.offsets[:, 0], batch.offsets[:, -1], strict=True)
        return {shard: batch.indices[first:last] for shard, first, last in spans}

    def rows_read(self) -> int:
        """Lookups of the batch on this rank, in rows of the tables' full width."""
        read = sum(len(rows) * shard.width for shard, rows in self.rows().items())
        own = 0 if self.replicated_lookups is None else len(self.replicated_lookups[0])
        return own + read // self._plan.dim

    def post(self) -> None:
        """Pool the rows of this rank for all samples and send them."""
        for bags in self._bags:
            bags.pool()
        self._exchange.post()

    def finish(self, out: FloatArray) -> FloatArray:
        """Fill ``out`` (n, S, E) with the pooled vectors of this rank's samples."""
        if self._replicated is not None:
            out[:, list(self._plan.replicated)] = self._replicated.pool()
        self._exchange.finish(out)
        return out

    def post_gradient(self, gradient: FloatArray) -> None:
        """Send the gradient (n, S, E) of :meth:`finish`'s result on its way."""
        self._exchange.post_gradient(gradient)
        if self._replicated is not None:
            own = np.ascontiguousarray(gradient[:, list(self._plan.replicated)])
            self._replicated_gradient = self._replicated.gradient(own)

    def replicated_gradient(self) -> Any:
        """Gradient of the replicated tables from this rank's samples, or None."""
        return self._replicated_gradient

    def gradients(self) -> Gradients:
        """Gradients of this rank's shards from all samples; waits for them."""
        self._exchange.wait()
        for bags, view in zip(self._bags, self._views, strict=True):
            yield bags.parameter, bags.gradient(view)


def _arrive(step: Step) -> FloatArray:
    """Forward: wait for the pooled vectors, which were sent before the bottom MLP ran."""
    out = step.options["out"]
    if out is None:
        out = np.empty(step.options["shape"], step.options["dtype"])
    pooled: FloatArray = step.options["port"].finish(out)
    return pooled


def _depart(step: Step, gradient: FloatArray) -> Iterator[tuple[int, Any]]:
    """Backward: send the gradient, which then travels while the bottom MLP runs."""
    step.options["port"].post_gradient(gradient)
    yield 0, None


ARRIVE = Rule("arrive", _arrive, _depart)
"""Pooled vectors from a ``port`` (anything that can ``finish`` and ``post_gradient``)."""


def selected(batch: Batch, tables: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Merged lookups of some tables of a batch."""
    parts = [batch.table(t) for t in tables]
    starts = np.cumsum([0, *(len(indices) for indices, _ in parts)])
    offsets = np.stack([own + start for (_, own), start in zip(parts, starts, strict=False)])
    return np.concatenate([indices for indices, _ in parts]), offsets
