"""Batches of a data set of any size, assembled ahead of their use by a background thread.

The order of an epoch is a function of seed and epoch that is computed row by row: it takes no
memory, and training can resume at any batch of any epoch.
"""

from __future__ import annotations

import copy
import os
import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
from dlrmjit_kernels.data.permutation import half_width, row_key
from dlrmjit_kernels.data.records import (
    gather_dense,
    gather_ids,
    gather_labels,
    log_table,
    shuffled_rows,
    table_out_of_range,
)
from dlrmjit_kernels.runtime.threads import reset_affinity
from numpy.typing import NDArray

from dlrmjit.data.array_pool import Pool
from dlrmjit.data.arrays import one_hot_offsets
from dlrmjit.data.batch import Batch
from dlrmjit.data.batch_shard import Share
from dlrmjit.data.dataset import Dataset
from dlrmjit.data.list_batch import ListShare
from dlrmjit.data.multi_hot_gather import BagGatherer
from dlrmjit.data.validate import check_index_range, check_positive
from dlrmjit.errors import ConcurrencyError, ConfigError, DataError

if TYPE_CHECKING:
    from dlrmjit.data.prepared.preprocessing import Preprocessing

Shuffle = Literal["none", "block", "total"]
BLOCK_ROWS = 1 << 16
_AHEAD = 2


class Loader:
    """A source of batches over ``dataset``.

    ``shuffle`` ``total`` permutes all rows in each epoch; ``block`` permutes blocks of
    ``block_rows`` and the rows in each, so that reads stay local. The last batch may be short.
    ``ahead`` batches are assembled in advance; 0 means no thread. A buffer is reused as soon as
    no reference to its arrays is left.

    Of a data set with lists, ``batch_size`` and ``block_rows`` count lists, which are shuffled as a
    whole; batches are :class:`~dlrmjit.data.list_batch.ListBatch`.

    Iteration raises DataError for a dense value that is not finite, and IndexRangeError for an id
    outside its table if ``dataset.bounds`` is ``raise``.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        shuffle: Shuffle = "none",
        block_rows: int = BLOCK_ROWS,
        seed: int = 0,
        ahead: int = _AHEAD,
    ) -> None:
        if shuffle not in ("none", "block", "total"):
            raise ConfigError(f"shuffle must be none, block or total, not {shuffle!r}")
        self._dataset, self._shuffle, self._seed = dataset, shuffle, seed
        self._share, self._ahead = Share(), ahead
        check_positive(block_rows, "rows of a block")
        self.batch_size = check_positive(batch_size, "batch size")
        self._units = len(dataset) if dataset.lists is None else len(dataset.lists) - 1
        self._block = {"none": 0, "block": block_rows, "total": max(self._units, 1)}[shuffle]
        permuted = self._units // block_rows if shuffle == "block" else self._units
        self._half_widths = half_width(max(permuted, 1)), half_width(block_rows)

    @property
    def table_rows(self) -> tuple[int, ...]:
        """Rows of each table."""
        return self._dataset.table_rows

    @property
    def preprocessing(self) -> Preprocessing | None:
        """Rules by which raw rows became those of the data set, if they are known."""
        return self._dataset.preprocessing

    @property
    def dense_features(self) -> int:
        """Number of dense features, D."""
        return int(self._dataset.dense.shape[1])

    @property
    def soft_labels(self) -> bool:
        """Whether labels are probabilities, not only 0 or 1."""
        return self._dataset.soft_labels

    @property
    def has_lists(self) -> bool:
        """Whether batches are of whole lists."""
        return self._dataset.lists is not None

    @property
    def has_pairs(self) -> bool:
        """Whether some list has rows of different labels."""
        return self._dataset.has_pairs()

    @property
    def num_samples(self) -> int:
        """Number of samples of one epoch."""
        return len(self._dataset)

    @property
    def num_batches(self) -> int:
        """Number of batches of one epoch, including a short last one."""
        return -(-self._units // self.batch_size)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield batches ``start``, ``start + 1``, ... of an epoch, assembled in the background."""
        if self._ahead < 1:
            yield from self._walk(epoch, start)
            return
        prefetch = _Prefetch(self._walk(epoch, start), self._ahead)
        try:
            yield from prefetch
        finally:
            prefetch.stop()

    def sliced(self, share: Share) -> Loader:
        """Return a loader of ``share`` of each batch, which reads only those rows."""
        part = copy.copy(self)
        part._share = share
        return part

    def _walk(self, epoch: int, start: int) -> Iterator[Batch]:
        assembler = Assembler(self._dataset)  # not shared with other loops over this loader
        for number in range(start, self.num_batches):
            if self._dataset.lists is None:
                yield assembler.batch(self.rows_of_batch(epoch, number))
                continue
            rows, lists = self._lists_of_batch(epoch, number)
            low, high = self._share.bounds(len(lists) - 1)
            own = lists[low : high + 1]
            batch = assembler.batch(rows[own[0] : own[-1]])
            yield ListShare(batch, own - own[0], self._share.sizes(lists), len(lists) - 1)

    def rows_of_batch(self, epoch: int, number: int) -> NDArray[np.int64]:
        """Return the rows of batch ``number`` of an epoch, or of this loader's share of it."""
        if self._dataset.lists is not None:
            rows, lists = self._lists_of_batch(epoch, number)
            low, high = self._share.bounds(len(lists) - 1)
            return rows[lists[low] : lists[high]]
        first = number * self.batch_size
        low, high = self._share.bounds(min(self.batch_size, self._units - first))
        return self._chosen(epoch, first + low, high - low)

    def _lists_of_batch(
        self, epoch: int, number: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of all lists of a batch, and where the lists start among them."""
        lists, first = self._dataset.lists, number * self.batch_size
        assert lists is not None
        chosen = self._chosen(epoch, first, min(self.batch_size, self._units - first))
        lengths = lists[chosen + 1] - lists[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.repeat(lists[chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return rows, offsets

    def _chosen(self, epoch: int, first: int, count: int) -> NDArray[np.int64]:
        """Return the samples, or lists, at positions ``first``, ... of an epoch."""
        chosen = np.empty(count, np.int64)
        seed = int(row_key(self._seed, epoch)) >> 2  # small enough for signed arithmetic
        shuffled_rows(first, self._units, self._block, seed, *self._half_widths, chosen)
        return chosen


class Assembler:
    """Makes batches of given rows, in buffers that nothing else refers to."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._rows = np.array(dataset.table_rows, np.int64)
        self._index_type = dataset.index_dtype
        self._logarithms = log_table()
        self._pool = Pool()
        self._bags = BagGatherer(dataset, self._index_type, self._pool)
        self._offsets: dict[int, NDArray[np.int64]] = {}

    def batch(self, chosen: NDArray[np.int64]) -> Batch:
        """Return the batch of rows ``chosen`` (N,)."""
        dataset, n = self._dataset, len(chosen)
        dense = self._pool.take((n, dataset.dense.shape[1]), np.float32)
        labels = self._pool.take((n,), np.float32)
        least = 0.0 if dataset.has_counts else -np.inf
        bad = gather_dense(
            chosen, dataset.dense, dense, self._logarithms, dataset.log_transform, least
        )
        if bad >= 0:
            self._refuse_dense(int(chosen[bad // dense.shape[1]]), bad % dense.shape[1])
        gather_labels(chosen, dataset.labels, labels)
        each = None
        if dataset.sample_weights is not None:
            each = self._pool.take((n,), np.float32)
            gather_labels(chosen, dataset.sample_weights, each)
        if dataset.multi:
            indices, offsets = self._bags.gather(chosen)
            return Batch.unchecked(dense, indices, offsets, labels, sample_weights=each)
        ids = self._pool.take((len(dataset.table_rows), n), self._index_type)
        gather_ids(chosen, dataset.ids, dataset.max_ind_range, ids)
        self._check(ids, n)
        offsets = self._one_hot(n)
        return Batch.unchecked(dense, ids.reshape(-1), offsets, labels, sample_weights=each)

    def _check(self, ids: NDArray[np.int32] | NDArray[np.int64], n: int) -> None:
        bad = table_out_of_range(ids, self._rows) if self._dataset.bounds == "raise" else -1
        if bad >= 0:
            check_index_range(bad, ids[bad], np.arange(n + 1), int(self._rows[bad]))

    def _refuse_dense(self, row: int, column: int) -> None:
        dataset = self._dataset
        expected = "a number that is not negative" if dataset.has_counts else "a finite number"
        raise DataError(
            f"{dataset.origin}, row {row}, dense column {column}: {dataset.dense[row, column]} "
            f"found, expected {expected}"
        )

    def _one_hot(self, n: int) -> NDArray[np.int64]:
        """Return offsets of one lookup per bag, which all batches of a size share."""
        if n not in self._offsets:
            if len(self._offsets) > 3:
                self._offsets.clear()
            self._offsets[n] = one_hot_offsets(len(self._dataset.table_rows), n)
            self._offsets[n].flags.writeable = False
        return self._offsets[n]


class _Prefetch:
    """Runs an iterator in a thread, a bounded number of items ahead."""

    def __init__(self, source: Iterator[Batch], ahead: int) -> None:
        self._source = source
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue(ahead)
        self._stopped = threading.Event()
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, daemon=True, name="loader")
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        while (item := self._next()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
            del item  # otherwise this frame would keep its buffers in use

    def _next(self) -> Batch | BaseException | None:
        """Return the next item; raise ConcurrencyError in a process that was forked since."""
        if os.getpid() != self._process:
            raise ConcurrencyError(
                "these batches are prepared by a thread of the process that started to read them, "
                "which a forked process does not have; start another loop over the source here"
            )
        return self._ready.get()

    def stop(self) -> None:
        """End the thread, which may be assembling a batch or waiting for room in the queue."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _run(self) -> None:
        last: BaseException | None = None
        try:
            reset_affinity()
            for item in self._source:
                self._ready.put(item)
                del item
                if self._stopped.is_set():
                    return
        except BaseException as error:  # raised where the next batch is asked for
            last = error
        self._ready.put(last)
