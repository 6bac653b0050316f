"""Look up rows of sharded tables, and receive their gradients, for batches of one size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dlrmjit.autograd.sparse_gradient import SparseGradient
from dlrmjit.autograd.tape import Parameter, Rule, Step, Tape, Variable
from dlrmjit.data.batch import Batch
from dlrmjit.ops.backend import Backend, FloatArray
from dlrmjit.parallel.exchange import PooledExchange
from dlrmjit.parallel.plan import Shard
from dlrmjit.parallel.routing import ShardedBatch, TableLookups
from dlrmjit.parallel.tables import ShardedTables

Gradients = Iterator[tuple[Parameter, SparseGradient]]


class LookupGradient(NamedTuple):
    """The gradient of some tables, and the lookups that it is from."""

    gradient: SparseGradient
    lookups: TableLookups


class EmbeddingPort(Protocol):
    """Provides the pooled vectors of a graph, and takes their gradient."""

    def finish(self, out: FloatArray) -> FloatArray:
        """Fill ``out`` (n, S, E) with the pooled vectors, and return it."""

    def post_gradient(self, gradient: FloatArray) -> None:
        """Send or store the gradient (n, S, E) of the pooled vectors."""


class RecordedLookup:
    """The lookup operation of one parameter, recorded once and replayed for every batch."""

    def __init__(self, backend: Backend, parameter: Parameter, out: FloatArray | None) -> None:
        self._backend, self.parameter, self._out = backend, parameter, out
        self._lookups, self._tape = Variable(), Tape()
        self._pooled = self._tape.record(
            backend.rules["embedding_bag"], parameter, self._lookups, out=out
        )

    def load(self, indices: NDArray[Any], offsets: NDArray[np.int64]) -> None:
        """Set the lookups of the next replay; raises IndexRangeError for one outside its table."""
        base, end = int(offsets[0, 0]), int(offsets[-1, -1])
        self._lookups.data = self._backend.lookups(
            self.parameter.data, indices[base:end], offsets - base
        )

    def pool(self) -> FloatArray:
        """Return the pooled vectors (N, shards, W), in ``out`` if it was given."""
        self._tape.forward()
        pooled: FloatArray = self._pooled.data
        if self._out is not None and pooled is not self._out:
            self._out[...] = pooled
        return pooled

    def gradient(self, pooled_gradient: FloatArray) -> SparseGradient:
        """Return the parameter's gradient from that of the pooled vectors."""
        [(_, gradient)] = self._tape.backward(self._pooled, pooled_gradient)
        sparse: SparseGradient = gradient
        return sparse


class ShardedLookup:
    """The lookups of one batch size in the tables of all ranks.

    :meth:`post` pools and sends, :meth:`finish` receives; :meth:`post_gradient` sends gradients
    back and :meth:`gradients` receives those of this rank's shards. In between, this rank computes.
    """

    def __init__(self, backend: Backend, tables: ShardedTables, exchange: PooledExchange) -> None:
        self._plan, self._exchange, self._dtype = tables.plan, exchange, backend.dtype
        self._shards = [shard for group in tables.groups for shard in group.shards]
        self._views = [view for _, view in exchange.group_views()]
        self._lookups = [
            RecordedLookup(backend, group.parameter, view)
            for group, view in zip(tables.groups, self._views, strict=True)
        ]
        self._ends = np.cumsum([0, *(group.count for group in tables.groups)])
        self._replicated = None
        if tables.replicated is not None:
            self._replicated = RecordedLookup(backend, tables.replicated, None)
        self._replicated_lookups: TableLookups | None = None
        self._replicated_gradient: LookupGradient | None = None

    def load(self, batch: ShardedBatch) -> None:
        """Set the batch of the next replay."""
        self._batch = batch
        for lookup, first, last in zip(self._lookups, self._ends, self._ends[1:], strict=False):
            lookup.load(batch.indices, batch.offsets[first:last])
        if self._replicated is not None:
            self._replicated_lookups = lookups_of_tables(batch.local, self._plan.replicated)
            self._replicated.load(*self._replicated_lookups)

    def rows(self) -> dict[Shard, NDArray[Any]]:
        """Return the rows of each of this rank's shards that the whole batch looks up."""
        batch = self._batch
        spans = zip(self._shards, batch.offsets[:, 0], batch.offsets[:, -1], strict=True)
        return {shard: batch.indices[first:last] for shard, first, last in spans}

    def rows_read(self) -> int:
        """Return the number of rows that this rank reads, in units of whole rows of E columns."""
        read = sum(len(rows) * shard.width for shard, rows in self.rows().items())
        replicated = self._replicated_lookups
        replicated_rows = 0 if replicated is None else len(replicated.indices)
        return replicated_rows + read // self._plan.dim

    def post(self) -> None:
        """Pool this rank's shards for all samples, and send the pooled vectors."""
        for lookup in self._lookups:
            lookup.pool()
        self._exchange.post()

    def finish(self, out: FloatArray) -> FloatArray:
        """Fill ``out`` (n, S, E) with the pooled vectors of this rank's samples."""
        if self._replicated is not None:
            out[:, list(self._plan.replicated)] = self._replicated.pool()
        self._exchange.finish(out)
        return out

    def post_gradient(self, gradient: FloatArray) -> None:
        """Send the gradient (n, S, E) of the result of :meth:`finish`."""
        self._exchange.post_gradient(gradient)
        if self._replicated is not None and self._replicated_lookups is not None:
            pooled = np.ascontiguousarray(gradient[:, list(self._plan.replicated)])
            sparse = self._replicated.gradient(pooled)
            self._replicated_gradient = LookupGradient(sparse, self._replicated_lookups)

    def replicated_gradient(self) -> LookupGradient | None:
        """Return the gradient of the replicated tables from this rank's samples, if any."""
        return self._replicated_gradient

    def gradients(self) -> Gradients:
        """Wait, and yield the gradients of this rank's shards from all samples."""
        self._exchange.wait()
        for lookup, view in zip(self._lookups, self._views, strict=True):
            yield lookup.parameter, lookup.gradient(view)


def _arrive(step: Step) -> FloatArray:
    """Forward: wait for the pooled vectors, which were sent before the bottom MLP."""
    out = step.options["out"]
    if out is None:
        out = np.empty(step.options["shape"], step.options["dtype"])
    port: EmbeddingPort = step.options["port"]
    return port.finish(out)


def _depart(step: Step, gradient: FloatArray) -> Iterator[tuple[int, Any]]:
    """Backward: send the gradient, so that it is in flight during the bottom MLP's backward."""
    port: EmbeddingPort = step.options["port"]
    port.post_gradient(gradient)
    yield 0, None


ARRIVE = Rule("arrive", _arrive, _depart)
"""The operation that receives pooled vectors from a ``port``, an :class:`EmbeddingPort`."""


def lookups_of_tables(batch: Batch, table_ids: tuple[int, ...]) -> TableLookups:
    """Return the lookups of some tables of a batch."""
    parts = [batch.table(t) for t in table_ids]
    starts = np.cumsum([0, *(len(indices) for indices, _ in parts)])
    offsets = [offsets + start for (_, offsets), start in zip(parts, starts, strict=False)]
    return TableLookups(np.concatenate([indices for indices, _ in parts]), np.stack(offsets))
