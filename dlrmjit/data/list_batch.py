"""A minibatch whose rows form lists, each with the relevance of its items."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlrmjit.data.batch import Batch, as_labels
from dlrmjit.data.validate import check_lists, check_relevance, plain_array
from dlrmjit.errors import ShapeError


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
            check_relevance(self.labels)

    @property
    def relevance(self) -> NDArray[np.float32]:
        """Relevance of each row, (N,)."""
        return self.labels

    def __repr__(self) -> str:
        return f"List{super().__repr__()[:-1]}, lists={len(self.lists) - 1})"


class ListShare(ListBatch):
    """The lists of a batch that one rank has: of ``batch_lists`` lists in all.

    ``sizes`` are the rows of each rank.
    """

    __slots__ = ("batch_lists", "sizes")

    sizes: tuple[int, ...]
    batch_lists: int

    def __init__(
        self,
        batch: Batch,
        lists: NDArray[np.int64],
        sizes: tuple[int, ...],
        batch_lists: int,
    ) -> None:
        super().__init__(batch, lists)
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "batch_lists", batch_lists)


def with_spare_rows(batch: Batch) -> Batch:
    """Return lists of different lengths with spare rows, so that few numbers of rows occur.

    A graph is recorded per number of rows. Spare rows look up nothing, and each is a list of its
    own, whose loss and gradient are 0; ``batch_lists`` does not count them. Lists of one length,
    and rows without lists, are returned as they are.
    """
    if not isinstance(batch, ListBatch) or batch.sample_weights is not None:
        return batch
    lengths, n = np.diff(batch.lists), batch.n
    spare = rows_to_record(n) - n
    if not spare or (lengths == lengths[0]).all():
        return batch
    last = np.repeat(batch.offsets[:, -1:], spare, axis=1)
    rows = Batch.unchecked(
        np.concatenate([batch.dense, np.zeros((spare, batch.dense.shape[1]), np.float32)]),
        batch.indices,
        np.concatenate([batch.offsets, last], axis=1),
        np.concatenate([batch.labels, np.zeros(spare, np.float32)]),
        batch.weights,
    )
    lists = np.concatenate([batch.lists, np.arange(n + 1, n + spare + 1)])
    return ListShare(rows, lists, (n + spare,), count_of_lists(batch))


def rows_to_record(n: int) -> int:
    """Return the next of a ladder of numbers of rows: multiples of 16, an eighth apart at most."""
    step = max(16, 1 << max(0, n.bit_length() - 4))
    return -(-n // step) * step


def lists_of(batch: Batch) -> NDArray[np.int64]:
    """Return the offsets of a batch's lists, whose relevances a loss can use.

    Raises ShapeError for a batch without lists, and DataError for other relevances.
    """
    offsets = offsets_of(batch, "a loss of lists")
    if batch.sample_weights is not None:
        raise ShapeError("a loss of lists has no use for sample_weights; leave them out")
    check_relevance(batch.labels)
    return offsets


def offsets_of(batch: Batch, user: str) -> NDArray[np.int64]:
    """Return the offsets of a batch's lists; raises ShapeError if it has none."""
    if not isinstance(batch, ListBatch):
        raise ShapeError(
            f"{user} needs a ListBatch, not a {type(batch).__name__}: its rows have no lists"
        )
    return batch.lists


def count_of_lists(batch: Batch) -> int:
    """Return the number of lists over which a loss is a mean: those of all ranks."""
    if isinstance(batch, ListShare):
        return batch.batch_lists
    assert isinstance(batch, ListBatch)
    return len(batch.lists) - 1


def _as_offsets(lists: ArrayLike, n: int) -> NDArray[np.int64]:
    array = plain_array(lists, "lists")
    check_lists(array, n)
    return np.ascontiguousarray(array, np.int64)
