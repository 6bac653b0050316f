"""Look up rows of sharded tables, and receive their gradients, for batches of one size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from dlrmjit.architecture.first_layer import FirstLayer
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.autograd.sparse_gradient import SparseGradient
from dlrmjit.autograd.tape import Parameter, Rule, Step, Tape, Variable
from dlrmjit.data.batch import Batch
from dlrmjit.ops.backend import Backend, FloatArray, Lookups
from dlrmjit.ops.partial_sums import partial_sums, vector_gradients
from dlrmjit.parallel.exchanges.positions import bags_of_positions, by_bag, by_sample
from dlrmjit.parallel.exchanges.recorded_sums import RecordedSums, lookups_of_bags
from dlrmjit.parallel.exchanges.sums import Totals, check_single_lookups, layers_of
from dlrmjit.parallel.exchanges.vectors import PooledExchange
from dlrmjit.parallel.plan import Shard
from dlrmjit.parallel.routing import ShardedBatch

if TYPE_CHECKING:
    from dlrmjit.model.graph import NodeRecording
    from dlrmjit.parallel.tables import ShardedTables, ShardGroup

Gradients = Iterator[tuple[Parameter, SparseGradient]]


class LookupGradient(NamedTuple):
    """The gradient of some tables, and the lookups that it is from."""

    gradient: SparseGradient
    lookups: Lookups


class EmbeddingPort(Protocol):
    """Provides the pooled vectors of a graph, and takes their gradient, by embedding node.

    Of the keys in ``totals``, of nodes and of first layers, these are total sums (n, W).
    """

    @property
    def totals(self) -> Mapping[str, int]:
        """Columns W by key."""

    @property
    def layers(self) -> Sequence[FirstLayer]:
        """First layers of which products arrive."""

    def finish(self, node: str, out: FloatArray) -> FloatArray:
        """Fill ``out`` (n, S, E) with a node's pooled vectors, and return it."""

    def post_gradient(self, node: str, gradient: FloatArray) -> None:
        """Send or store the gradient (n, S, E) of a node's pooled vectors."""


class RecordedLookup:
    """The lookup operation of one parameter, recorded once and replayed for every batch.

    ``row_weights`` are learned weights of its rows, another parameter. With ``positions`` L, a
    sample has L bags, whose vectors are in one row of ``out`` (N, shards, L * W).
    """

    def __init__(
        self,
        backend: Backend,
        parameter: Parameter,
        out: FloatArray | None,
        row_weights: Parameter | None = None,
        positions: int = 0,
    ) -> None:
        self._backend, self.parameter, self._out = backend, parameter, out
        self.positions = positions
        self._lookups, self._tape = Variable(), Tape()
        inputs = [parameter, self._lookups, *([row_weights] if row_weights else [])]
        directly = None if positions else out
        self._pooled = self._tape.record(backend.rules["embedding_bag"], *inputs, out=directly)

    def load(self, lookups: Lookups) -> None:
        """Set the lookups of the next replay; raises IndexRangeError for one outside its table."""
        self._lookups.data = self._backend.lookups(self.parameter.data, lookups_of_bags(lookups))

    def pool(self) -> FloatArray:
        """Return the pooled vectors (N, shards, W), in ``out`` if it was given."""
        self._tape.forward()
        pooled: FloatArray = self._pooled.data
        if self.positions:
            pooled = by_sample(pooled, self.positions)
        if self._out is not None and pooled is not self._out:
            self._out[...] = pooled
        return pooled

    def gradient(self, pooled_gradient: FloatArray) -> SparseGradient:
        """Return the parameter's gradient from that of the pooled vectors."""
        [(_, gradient)] = self.gradients(pooled_gradient)
        return gradient

    def gradients(self, pooled_gradient: FloatArray) -> Gradients:
        """Yield the parameters' gradients, all from their values of now."""
        if self.positions:
            pooled_gradient = by_bag(pooled_gradient, self.positions)
        for parameter, gradient in list(self._tape.backward(self._pooled, pooled_gradient)):
            yield cast(Parameter, parameter), gradient


class ShardedLookup:
    """The lookups of one batch size in the tables of all ranks.

    :meth:`post` pools and sends, :meth:`finish` receives; :meth:`post_gradient` sends gradients
    back and :meth:`gradients` receives those of this rank's shards. In between, this rank computes.
    """

    def __init__(
        self,
        backend: Backend,
        tables: ShardedTables,
        exchange: PooledExchange,
        totals: Totals,
        *,
        training: bool,
    ) -> None:
        self._training = training
        self._backend, self._plan, self._exchange = backend, tables.plan, exchange
        self._shards = [shard for group in tables.groups for shard in group.shards]
        self._tables = tables.table_ranges
        self._store = tables
        self.parts = exchange.parts
        # Gradients of nodes by part, until all are here.
        self._posted: list[dict[str, FloatArray]] = [{} for _ in range(self.parts)]
        self._totals, self.totals = totals, totals.columns
        self.layers = layers_of(list(totals.operators.values()))
        self._sums: dict[str, FloatArray] = {}  # totals by key, replicated tables included
        views = dict(exchange.group_views(tables.group_of))
        self._nodes = [tables.group_of(group.shards[0])[0] for group in tables.groups]
        self._views = [views.get(group.shards) for group in tables.groups]
        self._lookups = [
            self._recorded(group, view, node)
            for group, view, node in zip(tables.groups, self._views, self._nodes, strict=True)
        ]
        self._shapes = dict(self._arriving())
        self._ends = np.cumsum([0, *(group.count for group in tables.groups)])
        self._replicated = None
        if tables.replicated is not None:
            self._replicated = RecordedLookup(backend, tables.replicated, None)
        self._replicated_lookups: Lookups | None = None
        self._replicated_gradient: LookupGradient | None = None
        self._replicated_pooled = np.empty((0, 0, 0), exchange.dtype)

    def _recorded(
        self, group: ShardGroup, view: FloatArray | None, node: str
    ) -> RecordedLookup | RecordedSums:
        found = self._totals.of_node(node)
        if not found:
            positions = self._store.specs[group.shards[0].table].positions
            of_rows = group.row_weights, positions
            return RecordedLookup(self._backend, group.parameter, view, *of_rows)
        return RecordedSums(
            self._backend,
            group.parameter,
            found,
            vectors=(group.count, group.shards[0].width),
            samples=self._totals.samples,
            weight=group.layer_weight,
            exact=self._totals.exact,
        )

    def _arriving(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for node in self._store.architecture.embeddings:
            if not self._totals.of_node(node.name):
                yield node.name, node.pooled_shape
        for key, columns in self.totals.items():
            yield key, (columns,)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of one sample of everything that arrives: nodes, and keys of sums."""
        return self._shapes

    def load(self, batch: ShardedBatch) -> None:
        """Set the batch of the next replay."""
        batch = self._with_rows(batch)
        bags: list[Lookups] = []
        for lookup, first, last in zip(self._lookups, self._ends, self._ends[1:], strict=False):
            given = Lookups(batch.indices, batch.offsets[first:last], batch.weights)
            if isinstance(lookup, RecordedLookup) and lookup.positions:
                given = bags_of_positions(given, lookup.positions)
                batch = replace(batch, indices=given.indices)
            bags.append(given)
        self._batch = batch
        operators, architecture = self._totals.operators, self._store.architecture
        check_single_lookups(architecture, self._plan, operators, batch.local)
        for lookup, given in zip(self._lookups, bags, strict=True):
            lookup.load(given)
        if self._replicated is not None:
            self._replicated_lookups = self._store.replicated_lookups(batch.local)
            self._replicated.load(self._replicated_lookups)

    def _with_rows(self, batch: ShardedBatch) -> ShardedBatch:
        """Return a batch that looks up rows where its ids are dynamic."""
        ids = self._store.ids
        if ids is None:
            return batch
        given = Lookups(batch.indices, batch.offsets, batch.weights)
        found = ids.rows_of(given, training=self._training)
        return replace(batch, indices=found.indices)

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
        return replicated_rows + read // max(self._plan.dims)

    def post(self) -> None:
        """Pool this rank's shards for all samples, and send the pooled vectors."""
        self._totals.clear()
        self._sums.clear()
        for lookup in self._lookups:
            if isinstance(lookup, RecordedLookup):
                lookup.pool()
                continue
            for key, sums in lookup.pool():
                self._totals.add(key, sums)
        self._exchange.post()
        self._totals.exchange.post()
        if self._replicated is not None:
            self._replicated_pooled = self._replicated.pool()

    def rows_of(self, part: int) -> slice:
        """Return which of this rank's samples are in a part."""
        return self._exchange.rows(part)

    def finish(self, node: str, out: FloatArray, part: int = 0) -> FloatArray:
        """Fill ``out`` (n, S, E) with a node's pooled vectors of this rank's samples of a part."""
        rows, given = self.rows_of(part), out
        if node in self.totals:
            out[...] = self._total(node)[rows].reshape(out.shape)
            return out
        tables, out = self._tables[node], self._by_sample(node, out)
        for i, table in enumerate(self._plan.replicated):
            if table in tables:
                width = self._plan.dims[table]
                pooled = self._replicated_pooled[rows, i, :width]
                out[:, table - tables.start, :width] = pooled
        self._exchange.finish(out, tables, part)
        return given

    def _by_sample(self, node: str, vectors: FloatArray) -> FloatArray:
        """Return a view of vectors as those of samples (n, L, E), also of bags (n * L, 1, E)."""
        return vectors.reshape(-1, *self._shapes[node])

    def _total(self, node: str) -> FloatArray:
        """Wait once, and return the total sums (n, W) of a node, replicated tables included."""
        if node not in self._sums:
            local = self._replicated_vectors(node)
            kind = self._totals.operators[node].kind
            sums = None if local is None else partial_sums(local, kind)
            self._sums[node] = self._totals.finish(node, sums)
        return self._sums[node]

    def _replicated_vectors(self, node: str) -> FloatArray | None:
        """Return the vectors (n, tables, E) of a node's replicated tables, None without any."""
        tables = self._tables.get(node, range(0))  # of a first layer, none is replicated
        of_node = [i for i, t in enumerate(self._plan.replicated) if t in tables]
        if not of_node:
            return None
        width = self._plan.dims[self._plan.replicated[of_node[0]]]
        vectors: FloatArray = self._replicated_pooled[:, of_node, :width]
        return vectors

    def post_gradient(self, node: str, gradient: FloatArray, part: int = 0) -> None:
        """Take the gradient (n, S, E) of a node's vectors; send them when all nodes' are here."""
        posted, rows = self._posted[part], self.rows_of(part)
        if node in self.totals:
            packed = self._packed(node, gradient, rows)
            self._totals.pack(node, packed, rows)
            posted[node] = self._of_packed(node, packed, rows)
        else:
            gradient = self._by_sample(node, gradient)
            self._exchange.copy_gradient(gradient, self._tables[node], part)
            posted[node] = gradient
        if len(posted) < len(self._shapes):
            return
        self._exchange.post_gradient(part)
        if all(len(each) == len(self._shapes) for each in self._posted):
            self._complete_gradients()

    def _complete_gradients(self) -> None:
        """Send what is sent of all parts together, and make the gradient of replicated tables."""
        posted, self._posted = self._posted, [{} for _ in range(self.parts)]
        self._totals.post_gradient()
        if self._replicated is not None and self._replicated_lookups is not None:
            vectors = [self._store.replicated_vectors(each) for each in posted]
            sparse = self._replicated.gradient(np.concatenate(vectors))
            self._replicated_gradient = LookupGradient(sparse, self._replicated_lookups)

    def _packed(self, node: str, gradient: Any, rows: slice) -> FloatArray:
        if not isinstance(gradient, np.ndarray):
            gradient = self._backend.to_numpy(gradient)
        return self._totals.packed(node, gradient, self._sums[node][rows])

    def replicated_gradients(self, node: str, gradient: Any, rows: slice) -> FloatArray:
        """Return gradients (n, S, E) of a node's vectors, of which those replicated are set.

        ``gradient`` is that of its vectors or totals, of some ``rows`` of this rank's samples.
        """
        if node not in self.totals:
            vectors: FloatArray = gradient
            return vectors
        return self._of_packed(node, self._packed(node, gradient, rows), rows)

    def _of_packed(self, node: str, packed: FloatArray, rows: slice) -> FloatArray:
        """Return gradients (n, S, E) of a node's vectors, of which only the replicated are set."""
        spare: FloatArray = packed[:, None]
        vectors = self._replicated_vectors(node)
        if vectors is None:
            return spare
        vectors = vectors[rows]
        tables, replicated = self._tables[node], self._plan.replicated
        gradients = np.empty((len(packed), len(tables), vectors.shape[2]), packed.dtype)
        slots = [t - tables.start for t in replicated if t in tables]
        kind = self._totals.operators[node].kind
        gradients[:, slots] = vector_gradients(packed, vectors, kind)
        return gradients

    def replicated_gradient(self) -> LookupGradient | None:
        """Return the gradient of the replicated tables from this rank's samples, if any."""
        return self._replicated_gradient

    def gradients(self) -> Gradients:
        """Wait, and yield the gradients of this rank's shards from all samples."""
        self._exchange.wait()
        for lookup, view, node in zip(self._lookups, self._views, self._nodes, strict=True):
            if isinstance(lookup, RecordedSums):
                found = self._totals.of_node(node)
                yield from lookup.gradients([self._totals.of_all(each.key) for each in found])
            else:
                assert view is not None
                yield from lookup.gradients(view)


class LookupPart:
    """The port of a graph of one part of this rank's samples."""

    def __init__(self, lookup: ShardedLookup, part: int) -> None:
        self._lookup, self._part, self.totals = lookup, part, lookup.totals
        self.layers = lookup.layers

    def finish(self, node: str, out: FloatArray) -> FloatArray:
        """Fill ``out`` (n, S, E) with a node's pooled vectors of the part."""
        return self._lookup.finish(node, out, self._part)

    def post_gradient(self, node: str, gradient: FloatArray) -> None:
        """Send the gradient (n, S, E) of a node's pooled vectors of the part."""
        self._lookup.post_gradient(node, gradient, self._part)


def _arrive(step: Step) -> FloatArray:
    """Forward: wait for the pooled vectors, which were sent before the bottom MLP."""
    out = step.options["out"]
    if out is None:
        out = np.empty(step.options["shape"], step.options["dtype"])
    port: EmbeddingPort = step.options["port"]
    return port.finish(step.options["node"], out)


def _depart(step: Step, gradient: FloatArray) -> Iterator[tuple[int, Any]]:
    """Backward: send the gradient, so that it is in flight during the bottom MLP's backward."""
    port: EmbeddingPort = step.options["port"]
    port.post_gradient(step.options["node"], gradient)
    yield 0, None


ARRIVE = Rule("arrive", _arrive, _depart)
"""The operation that receives pooled vectors from a ``port``, an :class:`EmbeddingPort`."""


class ArrivalPort:
    """The pooled vectors of a graph as they arrive from an :class:`EmbeddingPort`."""

    def __init__(self, source: EmbeddingPort) -> None:
        self.source, self.totals = source, source.totals
        self.layers = {layer.mlp: layer for layer in source.layers}
        self.arrivals: dict[str, Variable] = {}

    def record(self, recording: NodeRecording, node: Embedding) -> Variable:
        """Record the arrival of a node's pooled vectors."""
        is_apart = node.is_combined or node.positions or node.name in self.totals
        out = None if is_apart else recording.out
        samples, shape = recording.n, self._shape(node)
        if node.positions:  # bags of one lookup, as those of one process
            samples, shape = samples * node.positions, (1, node.dim)
        return self._arrival(recording, node.name, (samples, *shape), out)

    def record_products(self, recording: NodeRecording) -> Variable | None:
        """Record the arrival of products of a node's first layer, if there are any."""
        layer = self.layers.get(recording.node.name)
        if layer is None:
            return None
        return self._arrival(recording, layer.key, (recording.n, layer.outputs))

    def _arrival(
        self, recording: NodeRecording, key: str, shape: tuple[int, ...], out: Any = None
    ) -> Variable:
        arrival = self.arrivals[key] = Variable(name="arrival", requires_grad=True)
        return recording.record(
            ARRIVE,
            arrival,
            out=out,
            shape=shape,
            dtype=recording.graph.model.backend.dtype,
            port=self.source,
            node=key,
        )

    def _shape(self, node: Embedding) -> tuple[int, ...]:
        """Return the shape of what arrives of one sample."""
        if node.name not in self.totals:
            return node.pooled_shape
        width = self.totals[node.name]
        return (1, width) if width == node.dim else (width,)  # a sum is one vector

    def load(self, batch: Batch) -> None:
        """Do nothing: the source has the lookups."""
