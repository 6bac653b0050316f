"""Send lookups to the ranks with their rows, one batch ahead of their use.

Each rank reads only its samples of a batch. Their lookups are sent to every rank as bag lengths and
row numbers within its shards, so that a rank then has the bags of the whole batch for its shards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.table_spec import TableSpec
from dlrmjit.data.batch import Batch
from dlrmjit.data.batch_shard import Share, rank_sizes
from dlrmjit.data.list_batch import ListShare
from dlrmjit.data.source import SizedSource, Source, has_lists, has_soft_labels, stateful
from dlrmjit.errors import DataError
from dlrmjit.model.lookups import mean_shares
from dlrmjit.ops.backend import Lookups
from dlrmjit.parallel.comm import Comm, Request
from dlrmjit.parallel.exchanges.positions import LastLookups, last_lookups
from dlrmjit.parallel.plan import Plan, Shard

Integers = NDArray[Any]


@dataclass(frozen=True)
class ShardedBatch:
    """One rank's view of a batch of ``n`` samples, of which ``sizes`` has those of each rank.

    ``local`` has this rank's samples with their lookups in all tables; ``indices`` and ``offsets``
    (shards, n + 1) are the lookups of all n samples in this rank's shards, in the plan's order, and
    ``weights`` one number per index, if rows are weighted.
    """

    sizes: tuple[int, ...]
    local: Batch
    indices: Integers
    offsets: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None

    @property
    def n(self) -> int:
        """Number of samples of all ranks."""
        return sum(self.sizes)

    @property
    def labels(self) -> NDArray[np.float32]:
        """Labels of this rank's samples."""
        return self.local.labels

    @property
    def sample_weights(self) -> NDArray[np.float32] | None:
        """Weights of this rank's samples in the loss, if they have any."""
        return self.local.sample_weights


class Router:
    """Exchanges the lookups of batches.

    Batches are split into ``micro_batches``, a multiple of the number of ranks and one each by
    default; consecutive ones belong to the same rank. The ``architecture`` says what the tables
    look up, by default columns 0, 1, ...
    """

    def __init__(
        self,
        comm: Comm,
        plan: Plan,
        micro_batches: int | None = None,
        architecture: Architecture | None = None,
    ) -> None:
        self._comm = comm
        self._specs = tuple(architecture.table_specs if architecture else _plain_specs(plan))
        dynamic = architecture.dynamic if architecture else None
        self._dynamic = frozenset(dynamic.columns if dynamic else ())
        rows = {spec.column: spec.column_rows for spec in self._specs}
        self._rows = [rows[column] for column in sorted(rows)]
        self._has_means = any(spec.mean for spec in self._specs)
        self._micro_batches = micro_batches or comm.size
        self._shards = [plan.of_rank(rank) for rank in range(comm.size)]
        largest = max(spec.rows * max(1, spec.positions) for spec in self._specs)
        is_wide = bool(self._dynamic) or largest >= 2**31
        self._dtype = np.int64 if is_wide else np.int32

    @property
    def share(self) -> Share:
        """This rank's samples of every batch."""
        return Share(self._comm.rank, self._comm.size, self._micro_batches)

    def sizes(self, n: int) -> tuple[int, ...]:
        """Return the number of samples of each rank in a batch of ``n``."""
        return rank_sizes(n, self._comm.size, self._micro_batches)

    def post(self, share: Batch, n: int) -> PendingBatch:
        """Send the lookups of ``share``, this rank's samples of a batch of ``n``, or its lists.

        Raises IndexRangeError for the first lookup outside its table.
        """
        share.check_indices(self._rows, self._dynamic)
        is_weighted = share.weights is not None or self._has_means
        messages = [self._pack(share, shards, is_weighted) for shards in self._shards]
        counts = np.array([len(message) for message in messages], np.int64)
        expected = np.empty_like(counts)
        ones = [1] * self._comm.size
        self._comm.alltoallv(counts, ones, expected, ones, name="lookups").wait()
        received = np.empty(int(expected.sum()), self._dtype)
        request = self._comm.alltoallv(
            np.concatenate(messages), counts.tolist(), received, expected.tolist(), name="lookups"
        )
        sizes = share.sizes if isinstance(share, ListShare) else self.sizes(n)
        layout = _MessageLayout(len(self._shards[self._comm.rank]), sizes, is_weighted)
        return PendingBatch(share, received, expected, layout, request)

    def route(self, batch: Batch) -> ShardedBatch:
        """Post this rank's samples of a whole batch, and wait for the lookups of the others."""
        return self.post(self.share.of(batch), batch.n).wait()

    def _pack(self, share: Batch, shards: Sequence[Shard], is_weighted: bool) -> Integers:
        """Return a message: the lengths of all bags by shard, then their rows by shard.

        Weights follow as the integers with their bits.
        """
        parts = [
            _lookups_of(
                share,
                shard,
                self._specs[shard.table],
                is_weighted,
                self._specs[shard.table].column in self._dynamic,
            )
            for shard in shards
        ]
        lengths, rows = [part.lengths for part in parts], [part.rows for part in parts]
        bits = [part.weights.view(np.int32) for part in parts if part.weights is not None]
        start = np.empty(0, self._dtype)
        return np.concatenate(
            [start, *lengths, *rows, *bits], dtype=self._dtype, casting="same_kind"
        )


@dataclass(frozen=True)
class _MessageLayout:
    """The layout of received messages: the shards of this rank, the samples of each sender."""

    shards: int
    sizes: tuple[int, ...]
    is_weighted: bool


@dataclass(frozen=True)
class PendingBatch:
    """A batch whose lookups are in flight."""

    share: Batch
    received: Integers
    counts: NDArray[np.int64]
    layout: _MessageLayout
    request: Request

    def wait(self) -> ShardedBatch:
        """Wait for the lookups of all ranks, and return the batch."""
        self.request.wait()
        lookups = _merge(self.received, self.counts, self.layout)
        return ShardedBatch(self.layout.sizes, self.share, *lookups)


class ShardedSource:
    """A source as sharded batches of one rank, whose lookups are exchanged one batch ahead.

    If the source can be sliced, this rank makes only its samples; otherwise it makes whole batches
    and slices them. Batches of a source that has a state, as random ones, are not made ahead:
    evaluations in between use the same random stream.
    """

    def __init__(self, source: Source, router: Router) -> None:
        self._source, self._router = source, router
        self.table_rows, self.dense_features = source.table_rows, source.dense_features
        self.num_batches, self.num_samples = source.num_batches, source.num_samples
        self.soft_labels, self.has_lists = has_soft_labels(source), has_lists(source)
        self.preprocessing = getattr(source, "preprocessing", None)

    @property
    def whole(self) -> Source:
        """The source of the whole batches."""
        return self._source

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Any]:
        """Yield the sharded batches ``start``, ``start + 1``, ... of an epoch."""
        ahead = 1 if stateful(self._source) is None else 0
        in_flight: deque[PendingBatch] = deque()
        for share, n in self._shares(epoch, start):
            in_flight.append(self._router.post(share, n))
            if len(in_flight) > ahead:
                yield in_flight.popleft().wait()
        while in_flight:
            yield in_flight.popleft().wait()

    def _shares(self, epoch: int, start: int) -> Iterator[tuple[Batch, int]]:
        """Yield this rank's samples of every batch, and the number of samples of all ranks."""
        share, source = self._router.share, self._source
        if not isinstance(source, SizedSource):
            yield from ((share.of(batch), batch.n) for batch in source.batches(epoch, start))
            return
        left = source.num_samples - start * source.batch_size
        for part in source.sliced(share).batches(epoch, start):
            n = min(source.batch_size, left)
            yield part, sum(part.sizes) if isinstance(part, ListShare) else n
            left -= source.batch_size


class _Part(NamedTuple):
    """Lookups in one shard: lengths of bags, rows within the shard, and weights or None."""

    lengths: Integers
    rows: Integers
    weights: NDArray[np.float32] | None


def _plain_specs(plan: Plan) -> Iterator[TableSpec]:
    """Yield descriptions of tables that each look up a column of their own."""
    for t, (rows, dim) in enumerate(zip(plan.table_rows, plan.dims, strict=True)):
        yield TableSpec(f"table {t}", "", t, t, rows, dim, rows)


def _lookups_of(
    share: Batch, shard: Shard, spec: TableSpec, is_weighted: bool, is_dynamic: bool
) -> _Part:
    """Return the lookups in one shard; bags are divided here, before they are split by rows.

    Dynamic ids are sent as they are to the rank that has their rows.
    """
    values, offsets = share.table(spec.column)
    indices, lengths = spec.rows_of(values), np.diff(offsets)
    weights = share.table_weights(spec.column)
    last = None
    if spec.positions:
        last = last_lookups(offsets, spec.positions)
        indices, lengths, offsets = indices[last.chosen], np.diff(last.offsets), last.offsets
        weights = None if weights is None else weights[last.chosen]
    if is_weighted and weights is None:
        weights = np.ones(len(indices), np.float32)
    if weights is not None and spec.mean:
        weights = weights * mean_shares(lengths)
    if shard.row_step == 1:
        return _Part(lengths, _with_positions(indices, last, spec), weights)
    in_shard = indices % shard.row_step == shard.first_row
    shard_offsets = np.concatenate([[0], np.cumsum(in_shard)])[offsets]
    rows = indices[in_shard] if is_dynamic else indices[in_shard] // shard.row_step
    if last is not None:
        last = last._replace(positions=last.positions[in_shard])
    rows = _with_positions(rows, last, spec)
    return _Part(np.diff(shard_offsets), rows, None if weights is None else weights[in_shard])


def _with_positions(rows: Integers, last: LastLookups | None, spec: TableSpec) -> Integers:
    if last is None:
        return rows
    return rows.astype(np.int64) * spec.positions + last.positions


def _merge(received: Integers, counts: NDArray[np.int64], layout: _MessageLayout) -> Lookups:
    """Return the messages of all ranks as the lookups of the whole batch, by shard.

    Raises DataError for a message without the weights that this rank has, or with others.
    """
    n, shards = sum(layout.sizes), layout.shards
    lengths = np.empty((shards, n), np.int64)
    rows: list[list[Integers]] = [[] for _ in range(shards)]
    weights: list[list[Integers]] = [[] for _ in range(shards)]
    message, sample = 0, 0  # where the message of the next sender and its samples begin
    for count, samples in zip(counts, layout.sizes, strict=True):
        first_row = message + shards * samples
        sender_lengths = received[message:first_row].reshape(shards, samples)
        lengths[:, sample : sample + samples] = sender_lengths
        ends = first_row + np.cumsum(sender_lengths.sum(axis=1, dtype=np.int64))
        total = int(sender_lengths.sum(dtype=np.int64))
        if count != shards * samples + total * (1 + layout.is_weighted):
            raise DataError(
                "the lookups of some ranks have weights and those of others none; give all batches "
                "weights, or none"
            )
        for s, (start, end) in enumerate(zip([first_row, *ends], ends, strict=False)):
            rows[s].append(received[start:end])
            if layout.is_weighted:
                weights[s].append(received[start + total : end + total])
        message, sample = message + int(count), sample + samples
    indices = np.concatenate([received[:0], *(part for parts in rows for part in parts)])
    found = None
    if layout.is_weighted:
        bits = np.concatenate([received[:0], *(part for parts in weights for part in parts)])
        found = bits.astype(np.int32).view(np.float32)
    return Lookups(indices, _offsets(lengths), found)


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the offsets (shards, n + 1) into all indices of bags of these lengths (shards, n)."""
    shards, n = lengths.shape
    ends = np.concatenate([[0], np.cumsum(lengths.reshape(-1))])
    starts = np.arange(shards)[:, None] * n
    offsets: NDArray[np.int64] = ends[starts + np.arange(n + 1)]
    return offsets
