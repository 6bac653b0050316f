"""Batches of arrays in memory, one lookup per sample and table."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlrmjit.data.batch import Batch, as_dense, as_labels, as_sample_weights
from dlrmjit.data.batch_shard import Share
from dlrmjit.data.dataset import rows_needed
from dlrmjit.data.source import index_dtype
from dlrmjit.data.validate import (
    check_finite,
    check_index_range,
    check_positive,
    check_table_rows,
    plain_array,
)
from dlrmjit.errors import ShapeError


class ArraySource:
    """Batches of ``dense`` (N, D), ``categorical`` (N, S) and ``labels`` (N,).

    ``table_rows`` defaults to one more than each column's largest value. ``order`` lists the
    samples to yield, in order; by default all, as stored. The last batch may be short. ``fit``
    refuses labels other than 0 and 1, unless ``soft_labels`` says that they are probabilities.
    ``sample_weight`` (N,) are the weights of samples in the loss of training.
    Raises :class:`ShapeError` for arrays of incompatible shapes, :class:`DataError` naming
    sample and column of a dense value that is not finite, and :class:`IndexRangeError` naming
    table, sample and value of an index outside its table.
    """

    def __init__(
        self,
        dense: ArrayLike,
        categorical: ArrayLike,
        labels: ArrayLike,
        batch_size: int,
        *,
        table_rows: Sequence[int] | None = None,
        order: ArrayLike | None = None,
        soft_labels: bool = False,
        sample_weight: ArrayLike | None = None,
    ) -> None:
        self._dense = as_dense(dense)
        self._categorical = _as_categorical(categorical, len(self._dense))
        self._labels = as_labels(labels, len(self._dense))
        self._weights = as_sample_weights(sample_weight, len(self._dense))
        check_finite(self._dense)
        self.soft_labels = soft_labels
        rows = rows_needed(self._categorical) if table_rows is None else table_rows
        self.table_rows = check_table_rows(rows)
        self._categorical = _checked_ids(self._categorical, self.table_rows)
        self.batch_size = check_positive(batch_size, "batch size")
        self._order = None if order is None else _as_order(order, len(self._dense))
        self._share = Share()

    def select(self, order: ArrayLike, batch_size: int | None = None) -> ArraySource:
        """Return a source over the same arrays that yields the samples ``order`` lists."""
        part = copy.copy(self)
        part._order = _as_order(order, len(self._dense))
        if batch_size is not None:
            part.batch_size = check_positive(batch_size, "batch size")
        return part

    def sliced(self, share: Share) -> ArraySource:
        """Return a source of ``share`` of each batch; every process holds the whole arrays."""
        part = copy.copy(self)
        part._share = share
        return part

    @property
    def dense_features(self) -> int:
        """Number of dense features, D."""
        return int(self._dense.shape[1])

    @property
    def num_samples(self) -> int:
        """Number of samples of one epoch."""
        return len(self._dense) if self._order is None else self._order.size

    @property
    def num_batches(self) -> int:
        """Number of batches of one epoch, including a short last one."""
        return -(-self.num_samples // self.batch_size)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield batches ``start``, ``start + 1``, ...; the same in every epoch."""
        for first in range(start * self.batch_size, self.num_samples, self.batch_size):
            low, high = self._share.bounds(min(self.batch_size, self.num_samples - first))
            yield self._batch(first + low, first + high)

    def _batch(self, first: int, last: int) -> Batch:
        chosen = slice(first, last) if self._order is None else self._order[first:last]
        indices = np.ascontiguousarray(self._categorical[chosen].T).reshape(-1)
        offsets = one_hot_offsets(len(self.table_rows), last - first)
        each = None if self._weights is None else self._weights[chosen]
        labels = self._labels[chosen]
        return Batch.unchecked(self._dense[chosen], indices, offsets, labels, sample_weights=each)


def one_hot_offsets(tables: int, n: int) -> NDArray[np.int64]:
    """Return offsets (S, N + 1) of bags of one lookup each."""
    return np.arange(tables)[:, None] * n + np.arange(n + 1)


def _as_categorical(values: ArrayLike, n: int) -> NDArray[Any]:
    array = plain_array(values, "categorical")
    if array.dtype.kind not in "iu" or array.ndim != 2 or len(array) != n:
        raise ShapeError(
            f"categorical must be integers of shape ({n}, S), one row per dense row, "
            f"not {array.dtype} of shape {array.shape}"
        )
    return array


def _checked_ids(categorical: NDArray[Any], table_rows: tuple[int, ...]) -> NDArray[Any]:
    """Check every column against its table; return the ids in the smallest index type."""
    if categorical.shape[1] != len(table_rows):
        raise ShapeError(
            f"{categorical.shape[1]} categorical columns, but {len(table_rows)} tables; each table "
            "needs one column"
        )
    one_each = np.arange(len(categorical) + 1)
    for s, rows in enumerate(table_rows):
        check_index_range(s, categorical[:, s], one_each, rows)
    return np.ascontiguousarray(categorical, dtype=index_dtype(table_rows))


def _as_order(order: ArrayLike, n: int) -> NDArray[np.int64]:
    array = plain_array(order, "order")
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ShapeError(
            f"order must be integers of shape (n,), not {array.dtype} of shape {array.shape}"
        )
    if array.size and (array.min() < 0 or array.max() >= n):
        raise ShapeError(f"order lists samples {array.min()} to {array.max()}, but there are {n}")
    return array.astype(np.int64, copy=False)
