"""The interface between data and training: an epoch of batches that can start at any of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dlrmjit.data.batch import Batch
from dlrmjit.data.batch_shard import Share
from dlrmjit.errors import DataError


@runtime_checkable
class Source(Protocol):
    """A finite sequence of batches over samples of one shape.

    ``batches`` yields batch ``start`` and all that follow. Two calls with the same ``epoch``
    yield the same batches.
    """

    @property
    def table_rows(self) -> tuple[int, ...]:
        """Rows of each of the S tables; every index of a table is less."""

    @property
    def dense_features(self) -> int:
        """Number of dense features, D."""

    @property
    def num_batches(self) -> int:
        """Number of batches of one epoch, including a short last one."""

    @property
    def num_samples(self) -> int:
        """Number of samples of one epoch."""

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield batches ``start``, ``start + 1``, ... of an epoch."""


@runtime_checkable
class SizedSource(Source, Protocol):
    """A source whose batches all have the same size, except that the last may be shorter.

    Such a source can make one process's share of each batch without reading the rest.
    """

    @property
    def batch_size(self) -> int:
        """Number of samples of a full batch."""

    def sliced(self, share: Share) -> SizedSource:
        """Return a source of ``share`` of each batch, bit for bit.

        Its properties still describe whole batches. Do not iterate over a source and its shares
        at the same time.
        """


@runtime_checkable
class StatefulSource(Protocol):
    """A source whose batches depend on more than the epoch and their number.

    A run that continues in the middle of an epoch restores the state before it asks for batches.
    """

    def state(self) -> Any:
        """Return what the next batch depends on, ready for JSON."""

    def restore(self, state: Any) -> None:
        """Make the next call of ``batches`` continue from a state; raises DataError for another."""


def stateful(source: Any) -> StatefulSource | None:
    """Return what in ``source`` has a state: the source, or the ``whole`` that it is a part of."""
    while source is not None and not isinstance(source, StatefulSource):
        source = getattr(source, "whole", None)
    return source


class Take:
    """The first ``limit`` batches of another source, or all of them when it has fewer."""

    def __init__(self, source: SizedSource, limit: int) -> None:
        self._source = source
        self.num_batches = min(source.num_batches, limit)
        self.num_samples = min(source.num_samples, self.num_batches * source.batch_size)
        self.has_lists = has_lists(source)
        if self.has_lists:  # batches count lists, of which an epoch's first ones are not known
            self.num_samples = source.num_samples * self.num_batches // max(1, source.num_batches)
        self.batch_size = source.batch_size
        self.table_rows = source.table_rows
        self.dense_features = source.dense_features
        self.soft_labels = has_soft_labels(source)
        self.preprocessing = getattr(source, "preprocessing", None)

    @property
    def whole(self) -> SizedSource:
        """The source without the limit."""
        return self._source

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield batches from ``start`` up to the limit."""
        return islice(self._source.batches(epoch, start), max(0, self.num_batches - start))

    def sliced(self, share: Share) -> Take:
        """Return the same batches, reduced to a share of each."""
        part = copy.copy(self)
        part._source = self._source.sliced(share)
        return part


def has_soft_labels(source: object) -> bool:
    """Return whether a source says that its labels are probabilities, not only 0 or 1.

    A source that has no attribute ``soft_labels`` has labels 0 and 1.
    """
    return bool(getattr(source, "soft_labels", False))


def has_lists(source: object) -> bool:
    """Return whether a source says that the rows of its batches are lists."""
    return bool(getattr(source, "has_lists", False))


def check_has_pairs(source: object) -> None:
    """Raise DataError for a source that says that none of its lists has an order to learn."""
    while hasattr(source, "whole"):
        source = source.whole
    if not getattr(source, "has_pairs", True):
        raise DataError(
            "no list of the training data has two rows of different relevance, so there is no "
            "order to learn; check the column of lists, or train on single rows"
        )


def take(source: SizedSource, num_batches: int) -> SizedSource:
    """Limit ``source`` to ``num_batches`` batches per epoch; 0 or less means no limit."""
    return Take(source, num_batches) if num_batches > 0 else source


def index_dtype(table_rows: tuple[int, ...]) -> type[np.int32] | type[np.int64]:
    """Return the smallest index type that can address every row of every table."""
    return np.int32 if max(table_rows, default=0) <= 2**31 else np.int64
