"""What training asks of data: a number of batches that can be walked from any one of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np

from dlrmjit.data.batch import Batch
from dlrmjit.data.batch_shard import Share


@runtime_checkable
class Source(Protocol):
    """A finite sequence of batches over samples of one shape.

    ``batches`` yields batch ``start`` and all that follow; walking twice gives the same
    batches unless ``epoch`` says otherwise.
    """

    @property
    def table_rows(self) -> tuple[int, ...]:
        """Rows of each of the S tables; every index lies below."""

    @property
    def dense_features(self) -> int:
        """Dense features D of a sample."""

    @property
    def num_batches(self) -> int:
        """Batches of one epoch, the short last one included."""

    @property
    def num_samples(self) -> int:
        """Samples of one epoch."""

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Batches ``start``, ``start + 1``, ... of an epoch."""


@runtime_checkable
class SizedSource(Source, Protocol):
    """A source whose batches, but for a short last one, have one known size.

    So it can make one process's share of them alone: what that process does not train on, it
    need not read.
    """

    @property
    def batch_size(self) -> int:
        """Samples of a full batch."""

    def sliced(self, share: Share) -> SizedSource:
        """A source of ``share`` of each batch, bit for bit; the numbers it tells stay as they are.

        Shares of one source must not be walked at the same time as the source.
        """


class Take:
    """The first ``limit`` batches of another source, or all of them when it has fewer."""

    def __init__(self, source: SizedSource, limit: int) -> None:
        self._source = source
        self.num_batches = min(source.num_batches, limit)
        self.num_samples = min(source.num_samples, self.num_batches * source.batch_size)
        self.batch_size = source.batch_size
        self.table_rows = source.table_rows
        self.dense_features = source.dense_features

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Batches ``start`` to the limit."""
        return islice(self._source.batches(epoch, start), max(0, self.num_batches - start))

    def sliced(self, share: Share) -> Take:
        """The same of a share of each batch."""
        part = copy.copy(self)
        part._source = self._source.sliced(share)
        return part


def take(source: SizedSource, num_batches: int) -> SizedSource:
    """Limit ``source`` to ``num_batches`` batches an epoch; 0 or less means no limit."""
    return Take(source, num_batches) if num_batches > 0 else source


def index_dtype(table_rows: tuple[int, ...]) -> type[np.int32] | type[np.int64]:
    """Narrowest index type that reaches every row of every table."""
    return np.int32 if max(table_rows, default=0) <= 2**31 else np.int64
