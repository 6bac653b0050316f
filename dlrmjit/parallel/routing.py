"""Getting lookups to the ranks that hold their rows, one batch ahead of their use.

Each rank reads only its share of a batch. What it looks up in tables of others travels as
lengths of bags and local row numbers; a rank then has the bags of the whole batch for each of
its shards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.batch import Batch
from dlrmjit.data.batch_shard import Share, rank_sizes
from dlrmjit.data.generate.random import RandomSource
from dlrmjit.data.source import SizedSource, Source
from dlrmjit.parallel.comm import Comm, Request
from dlrmjit.parallel.plan import Plan, Shard

Integers = NDArray[Any]


@dataclass(frozen=True)
class ShardedBatch:
    """One rank's view of a batch of ``n`` samples.

    ``local`` is its share with the lookups of all tables; ``indices`` and ``offsets``
    (shards, n + 1) are the whole batch's lookups in the rank's own shards, in the plan's order.
    """

    n: int
    local: Batch
    indices: Integers
    offsets: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.float32]:
        """Labels of the local share."""
        return self.local.labels


class Router:
    """Exchanges lookups of batches; ``shares`` (a multiple of the ranks) are dealt in runs."""

    def __init__(self, comm: Comm, plan: Plan, micro_batches: int | None = None) -> None:
        self._comm, self._plan = comm, plan
        self._micro_batches = micro_batches or comm.size
        self._shards = [plan.of_rank(rank) for rank in range(comm.size)]
        self._dtype = np.int32 if max(plan.table_rows) < 2**31 else np.int64

    @property
    def share(self) -> Share:
        """What this rank has of every batch."""
        return Share(self._comm.rank, self._comm.size, self._micro_batches)

    def sizes(self, n: int) -> tuple[int, ...]:
        """Samples of each rank in a batch of ``n``."""
        return rank_sizes(n, self._comm.size, self._micro_batches)

    def post(self, share: Batch, n: int) -> PendingBatch:
        """Send the lookups of this rank's ``share`` of a batch of ``n`` samples on their way.

        Raises IndexRangeError for the first lookup of the share outside its table.
        """
        share.check_indices(self._plan.table_rows)
        messages = [_message(share, shards, self._dtype) for shards in self._shards]
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
        """Post this rank's share of a whole batch, and wait."""
        return self.post(self.share.of(batch), batch.n).wait()

    def _layout(self, n: int) -> _Layout:
        return _Layout(len(self._shards[self._comm.rank]), self.sizes(n))


@dataclass(frozen=True)
class _Layout:
    """Of the messages that a rank receives: its shards, and the samples of each sender."""

    shards: int
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class PendingBatch:
    """A batch whose lookups are on their way."""

    share: Batch
    n: int
    received: Integers
    counts: NDArray[np.int64]
    layout: _Layout
    request: Request

    def wait(self) -> ShardedBatch:
        """The batch, when everything has arrived."""
        self.request.wait()
        indices, offsets = _merged(self.received, self.counts, self.layout)
        return ShardedBatch(self.n, self.share, indices, offsets)


class ShardedSource:
    """A source of batches as one rank's sharded batches, exchanged one ahead.

    Where the source can be sliced, this rank makes only its share; else it cuts whole batches.
    Random batches are made when they are asked for: a test in between moves their stream.
    """

    def __init__(self, source: Source, router: Router) -> None:
        self._source, self._router = source, router
        self.table_rows, self.dense_features = source.table_rows, source.dense_features
        self.num_batches, self.num_samples = source.num_batches, source.num_samples

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Any]:
        """Sharded batches ``start``, ``start + 1``, ... of an epoch."""
        ahead = 0 if isinstance(self._source, RandomSource) else 1
        in_flight: deque[PendingBatch] = deque()
        for share, n in self._shares(epoch, start):
            in_flight.append(self._router.post(share, n))
            if len(in_flight) > ahead:
                yield in_flight.popleft().wait()
        while in_flight:
            yield in_flight.popleft().wait()

    def _shares(self, epoch: int, start: int) -> Iterator[tuple[Batch, int]]:
        """This rank's share of every batch, and the samples of the whole."""
        share, source = self._router.share, self._source
        if not isinstance(source, SizedSource):
            yield from ((share.of(batch), batch.n) for batch in source.batches(epoch, start))
            return
        left = source.num_samples - start * source.batch_size
        for part in source.sliced(share).batches(epoch, start):
            yield part, min(source.batch_size, left)
            left -= source.batch_size


def _message(share: Batch, shards: Sequence[Shard], dtype: Any) -> Integers:
    """Lengths of all bags, shard after shard, then their rows, shard after shard."""
    lengths: list[Integers] = []
    rows: list[Integers] = []
    for shard in shards:
        bag_lengths, own = _lookups_of(share, shard)
        lengths.append(bag_lengths)
        rows.append(own)
    return np.concatenate([np.empty(0, dtype), *lengths, *rows], dtype=dtype, casting="same_kind")


def _lookups_of(share: Batch, shard: Shard) -> tuple[Integers, Integers]:
    """Lengths of the bags in one shard, and its local rows."""
    indices, offsets = share.table(shard.table)
    if shard.row_step == 1:
        return np.diff(offsets), indices
    owned = indices % shard.row_step == shard.first_row
    before = np.concatenate([[0], np.cumsum(owned)])[offsets]
    return np.diff(before), indices[owned] // shard.row_step


def _merged(
    received: Integers, counts: NDArray[np.int64], layout: _Layout
) -> tuple[Integers, NDArray[np.int64]]:
    """Messages of all ranks as lookups (indices, offsets) of the whole batch, shard-major."""
    n, shards = sum(layout.sizes), layout.shards
    lengths = np.empty((shards, n), np.int64)
    rows: list[list[Integers]] = [[] for _ in range(shards)]
    message, sample = 0, 0
    for count, samples in zip(counts, layout.sizes, strict=True):
        head = message + shards * samples
        own = received[message:head].reshape(shards, samples)
        lengths[:, sample : sample + samples] = own
        ends = head + np.cumsum(own.sum(axis=1, dtype=np.int64))
        for s, (a, b) in enumerate(zip([head, *ends], ends, strict=False)):
            rows[s].append(received[a:b])
        message, sample = message + int(count), sample + samples
    indices = np.concatenate([received[:0], *(part for parts in rows for part in parts)])
    return indices, _offsets(lengths)


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Absolute offsets (shards, n + 1) of bags of these lengths."""
    shards, n = lengths.shape
    ends = np.concatenate([[0], np.cumsum(lengths.reshape(-1))])
    starts = np.arange(shards)[:, None] * n
    offsets: NDArray[np.int64] = ends[starts + np.arange(n + 1)]
    return offsets
