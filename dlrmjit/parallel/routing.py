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

from dlrmjit.data.batch import Batch
from dlrmjit.data.batch_shard import Share, rank_sizes
from dlrmjit.data.source import SizedSource, Source, has_soft_labels, stateful
from dlrmjit.parallel.comm import Comm, Request
from dlrmjit.parallel.plan import Plan, Shard

Integers = NDArray[Any]


class TableLookups(NamedTuple):
    """Lookups in some tables: ``indices``, and ``offsets`` (tables, N + 1) into them."""

    indices: NDArray[Any]
    offsets: NDArray[np.int64]


@dataclass(frozen=True)
class ShardedBatch:
    """One rank's view of a batch of ``n`` samples.

    ``local`` has this rank's samples with their lookups in all tables; ``indices`` and ``offsets``
    (shards, n + 1) are the lookups of all n samples in this rank's shards, in the plan's order.
    """

    n: int
    local: Batch
    indices: Integers
    offsets: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.float32]:
        """Labels of this rank's samples."""
        return self.local.labels


class Router:
    """Exchanges the lookups of batches.

    Batches are split into ``micro_batches``, a multiple of the number of ranks and one each by
    default; consecutive ones belong to the same rank. ``columns`` are the categorical columns that
    the tables look up, by default 0, 1, ...
    """

    def __init__(
        self,
        comm: Comm,
        plan: Plan,
        micro_batches: int | None = None,
        columns: Sequence[int] | None = None,
    ) -> None:
        self._comm = comm
        self._columns = tuple(range(len(plan.table_rows)) if columns is None else columns)
        rows = dict(zip(self._columns, plan.table_rows, strict=True))
        self._rows = [rows[column] for column in sorted(rows)]
        self._micro_batches = micro_batches or comm.size
        self._shards = [plan.of_rank(rank) for rank in range(comm.size)]
        self._dtype = np.int32 if max(plan.table_rows) < 2**31 else np.int64

    @property
    def share(self) -> Share:
        """This rank's samples of every batch."""
        return Share(self._comm.rank, self._comm.size, self._micro_batches)

    def sizes(self, n: int) -> tuple[int, ...]:
        """Return the number of samples of each rank in a batch of ``n``."""
        return rank_sizes(n, self._comm.size, self._micro_batches)

    def post(self, share: Batch, n: int) -> PendingBatch:
        """Send the lookups of ``share``, this rank's samples of a batch of ``n``.

        Raises IndexRangeError for the first lookup outside its table.
        """
        share.check_indices(self._rows)
        messages = [self._pack(share, shards) for shards in self._shards]
        counts = np.array([len(message) for message in messages], np.int64)
        expected = np.empty_like(counts)
        ones = [1] * self._comm.size
        self._comm.alltoallv(counts, ones, expected, ones, name="lookups").wait()
        received = np.empty(int(expected.sum()), self._dtype)
        request = self._comm.alltoallv(
            np.concatenate(messages), counts.tolist(), received, expected.tolist(), name="lookups"
        )
        return PendingBatch(share, n, received, expected, self._layout(n), request)

    def route(self, batch: Batch) -> ShardedBatch:
        """Post this rank's samples of a whole batch, and wait for the lookups of the others."""
        return self.post(self.share.of(batch), batch.n).wait()

    def _pack(self, share: Batch, shards: Sequence[Shard]) -> Integers:
        """Return a message: the lengths of all bags by shard, then their rows by shard."""
        parts = [_lookups_of(share, shard, self._columns[shard.table]) for shard in shards]
        lengths, rows = [part[0] for part in parts], [part[1] for part in parts]
        start = np.empty(0, self._dtype)
        return np.concatenate([start, *lengths, *rows], dtype=self._dtype, casting="same_kind")

    def _layout(self, n: int) -> _MessageLayout:
        return _MessageLayout(len(self._shards[self._comm.rank]), self.sizes(n))


@dataclass(frozen=True)
class _MessageLayout:
    """The layout of received messages: the shards of this rank, the samples of each sender."""

    shards: int
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class PendingBatch:
    """A batch whose lookups are in flight."""

    share: Batch
    n: int
    received: Integers
    counts: NDArray[np.int64]
    layout: _MessageLayout
    request: Request

    def wait(self) -> ShardedBatch:
        """Wait for the lookups of all ranks, and return the batch."""
        self.request.wait()
        lookups = _merge(self.received, self.counts, self.layout)
        return ShardedBatch(self.n, self.share, lookups.indices, lookups.offsets)


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
        self.soft_labels = has_soft_labels(source)
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
            yield part, min(source.batch_size, left)
            left -= source.batch_size


def _lookups_of(share: Batch, shard: Shard, column: int) -> tuple[Integers, Integers]:
    """Return the lengths of the bags in one shard, and the rows within the shard."""
    indices, offsets = share.table(column)
    if shard.row_step == 1:
        return np.diff(offsets), indices
    in_shard = indices % shard.row_step == shard.first_row
    shard_offsets = np.concatenate([[0], np.cumsum(in_shard)])[offsets]
    return np.diff(shard_offsets), indices[in_shard] // shard.row_step


def _merge(received: Integers, counts: NDArray[np.int64], layout: _MessageLayout) -> TableLookups:
    """Return the messages of all ranks as the lookups of the whole batch, by shard."""
    n, shards = sum(layout.sizes), layout.shards
    lengths = np.empty((shards, n), np.int64)
    rows: list[list[Integers]] = [[] for _ in range(shards)]
    message, sample = 0, 0  # where the message of the next sender and its samples begin
    for count, samples in zip(counts, layout.sizes, strict=True):
        first_row = message + shards * samples
        sender_lengths = received[message:first_row].reshape(shards, samples)
        lengths[:, sample : sample + samples] = sender_lengths
        ends = first_row + np.cumsum(sender_lengths.sum(axis=1, dtype=np.int64))
        for s, (start, end) in enumerate(zip([first_row, *ends], ends, strict=False)):
            rows[s].append(received[start:end])
        message, sample = message + int(count), sample + samples
    indices = np.concatenate([received[:0], *(part for parts in rows for part in parts)])
    return TableLookups(indices, _offsets(lengths))


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the offsets (shards, n + 1) into all indices of bags of these lengths (shards, n)."""
    shards, n = lengths.shape
    ends = np.concatenate([[0], np.cumsum(lengths.reshape(-1))])
    starts = np.arange(shards)[:, None] * n
    offsets: NDArray[np.int64] = ends[starts + np.arange(n + 1)]
    return offsets
