"""A minibatch whose rows form lists, each with the relevance of its items."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlrmjit.data.batch import Batch, as_labels
from dlrmjit.errors import DataError, ShapeError

MOST_RELEVANCE = 100.0
"""Largest relevance: gains are 2 ** relevance - 1."""


class ListBatch(Batch):
    """The rows of a :class:`Batch` as lists: list l has the rows ``lists[l]:lists[l + 1]``.

    ``lists`` (L + 1,) int64 runs from 0 to the number of rows, without an empty list;
    ``relevance`` (N,), from 0 to 100, replaces the batch's labels, and is stored as ``labels``.
    Without it, they stay.

    Raises
    ------
    ShapeError
        For offsets or relevances that do not fit the rows.
    DataError
        For a relevance outside its range.
    """

    __slots__ = ("lists",)

    lists: NDArray[np.int64]

    def __init__(self, batch: Batch, lists: ArrayLike, relevance: ArrayLike | None = None) -> None:
        batch.check_shapes()
        self.weights, self.sample_weights = batch.weights, batch.sample_weights
        self.dense, self.indices, self.offsets = batch.dense, batch.indices, batch.offsets
        self.labels = batch.labels if relevance is None else as_labels(relevance, batch.n)
        self.lists = _as_offsets(lists, batch.n)
        if relevance is not None:
            _check_relevance(self.labels)

    @property
    def relevance(self) -> NDArray[np.float32]:
        """Relevance of each row, (N,)."""
        return self.labels

    def __repr__(self) -> str:
        return f"List{super().__repr__()[:-1]}, lists={len(self.lists) - 1})"


def lists_of(batch: Batch) -> NDArray[np.int64]:
    """Return the offsets of a batch's lists, whose relevances a loss can use.

    Raises ShapeError for a batch without lists, and DataError for other relevances.
    """
    offsets = offsets_of(batch, "a loss of lists")
    if batch.sample_weights is not None:
        raise ShapeError("a loss of lists has no use for sample_weights; leave them out")
    _check_relevance(batch.labels)
    return offsets


def offsets_of(batch: Batch, user: str) -> NDArray[np.int64]:
    """Return the offsets of a batch's lists; raises ShapeError if it has none."""
    if not isinstance(batch, ListBatch):
        raise ShapeError(
            f"{user} needs a ListBatch, not a {type(batch).__name__}: its rows have no lists"
        )
    return batch.lists


def _as_offsets(lists: ArrayLike, n: int) -> NDArray[np.int64]:
    array = np.asarray(lists)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.size < 1:
        raise ShapeError(
            f"offsets of lists must be integers in one dimension, not {array.dtype} of shape "
            f"{array.shape}"
        )
    offsets = np.ascontiguousarray(array, np.int64)
    if offsets[0] != 0 or offsets[-1] != n:
        raise ShapeError(
            f"offsets of lists must run from 0 to the {n} rows, not from {offsets[0]} to "
            f"{offsets[-1]}"
        )
    wrong = np.flatnonzero(np.diff(offsets) < 1)
    if wrong.size:
        raise ShapeError(
            f"list {wrong[0]} must have rows, but its offsets are {offsets[wrong[0]]} and "
            f"{offsets[wrong[0] + 1]}"
        )
    return offsets


def _check_relevance(relevance: NDArray[np.float32]) -> None:
    wrong = np.flatnonzero(~((relevance >= 0) & (relevance <= MOST_RELEVANCE)))
    if wrong.size:
        raise DataError(
            f"the relevance of row {wrong[0]} must be from 0 to {MOST_RELEVANCE:g}, not "
            f"{relevance[wrong[0]]}"
        )
