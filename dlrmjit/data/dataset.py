"""The rows of a data set, whether arrays in memory or files mapped into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.config.model import Bounds
from dlrmjit.data.source import index_dtype
from dlrmjit.data.validate import check_indices, check_lists, check_numbers
from dlrmjit.errors import DataError, ShapeError

if TYPE_CHECKING:
    from dlrmjit.data.prepared.preprocessing import Preprocessing

_BLOCK_ROWS = 1 << 18
_LISTS_AT_A_TIME = 1 << 14


@dataclass(frozen=True)
class MultiHot:
    """A multi-valued column: row r has the ids ``ids[offsets[r]:offsets[r + 1]]``.

    ``offsets`` is (N + 1,) int64. If every row has P ids, ``ids`` may be (N, P) and ``offsets``
    None.
    """

    ids: NDArray[Any]
    offsets: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.ids) if self.offsets is None else len(self.offsets) - 1

    @property
    def size(self) -> int:
        """Number of ids of all rows."""
        if self.offsets is None:
            return int(self.ids.size)
        return int(self.offsets[-1] - self.offsets[0])

    def cut(self, start: int, end: int) -> MultiHot:
        """Return rows ``start`` to ``end`` as views."""
        if self.offsets is None:
            return MultiHot(self.ids[start:end])
        return MultiHot(self.ids, self.offsets[start : end + 1])

    def bags(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return the ids of all rows, and the position after each row's last id (N,)."""
        if self.offsets is None:
            return self.ids.reshape(-1), np.arange(1, len(self) + 1) * self.ids.shape[1]
        first = int(self.offsets[0])
        ends = np.asarray(self.offsets[1:], np.int64) - first
        return self.ids[first : first + self.size], ends


def rows_needed(ids: NDArray[Any]) -> tuple[int, ...]:
    """Return one more than the largest id of each column of ``ids`` (N, S), at least 1.

    Mapped ids are read a block of rows at a time.
    """
    largest = np.zeros(ids.shape[1], np.int64)
    for first in range(0, len(ids), _BLOCK_ROWS):
        largest = np.maximum(largest, ids[first : first + _BLOCK_ROWS].max(axis=0))
    return tuple(int(most) + 1 for most in largest)


@dataclass(frozen=True)
class Dataset:
    """N rows: ``labels`` (N,), ``dense`` (N, D) and ``ids`` (N, S - M) of any numeric type.

    ``ids`` holds the single-valued columns in the order of their tables; ``multi`` holds the M
    multi-valued columns, each with its table's number. With ``log_transform`` the model sees
    log(max(x, 0) + 1) of dense values. ``max_ind_range`` > 0 takes ids modulo it. Unless
    ``bounds`` is ``raise``, ids outside their table reach the model unchecked; otherwise the
    loader raises IndexRangeError. ``origin`` names the data in messages. Labels are 0 or 1, or
    with ``soft_labels`` probabilities. With ``has_counts`` negative dense values are refused.
    ``preprocessing`` are the rules by which raw rows became these, if they are known;
    ``sample_weights`` (N,) the weights of rows in the loss of training, if they have any. List l
    has the rows ``lists[l]:lists[l + 1]``, if rows form lists; then labels may be relevances from 0
    to 100. Raises ShapeError for arrays of different lengths, or a number of columns other than the
    number of tables, and DataError for types that are no numbers, or offsets of no lists.
    """

    labels: NDArray[Any]
    dense: NDArray[Any]
    ids: NDArray[Any]
    table_rows: tuple[int, ...]
    log_transform: bool = False
    multi: tuple[tuple[int, MultiHot], ...] = ()
    max_ind_range: int = 0
    origin: str = "the data"
    bounds: Bounds = "raise"
    soft_labels: bool = False
    has_counts: bool = False
    preprocessing: Preprocessing | None = None
    sample_weights: NDArray[Any] | None = None
    lists: NDArray[Any] | None = None

    def has_pairs(self) -> bool:
        """Return whether some list has rows of different labels; reads on until it finds one."""
        lists = np.zeros(1, np.int64) if self.lists is None else self.lists
        for first in range(0, len(lists) - 1, _LISTS_AT_A_TIME):
            starts = np.asarray(lists[first : first + _LISTS_AT_A_TIME + 1])
            labels = np.asarray(self.labels[starts[0] : starts[-1]])
            inner = starts[:-1] - starts[0]
            if (np.maximum.reduceat(labels, inner) > np.minimum.reduceat(labels, inner)).any():
                return True
        return False

    def __post_init__(self) -> None:
        self._check_types()
        n = len(self.labels)
        if self.sample_weights is not None and len(self.sample_weights) != n:
            raise ShapeError(f"{self.origin}: {n} labels, but {len(self.sample_weights)} weights")
        if self.lists is not None:
            check_lists(self.lists, n, f"{self.origin}, offsets of lists")
        if len(self.dense) != n or len(self.ids) != n:
            raise ShapeError(
                f"{self.origin}: {n} labels, but {len(self.dense)} rows of dense values and "
                f"{len(self.ids)} rows of ids; all three must have the same number of rows"
            )
        for s, column in self.multi:
            if len(column) != n:
                raise ShapeError(
                    f"{self.origin}: {n} labels, but {len(column)} rows of categorical column {s}; "
                    "both must have the same number of rows"
                )
        columns = self.ids.shape[1] + len(self.multi)
        if columns != len(self.table_rows):
            raise ShapeError(
                f"{self.origin}: {columns} categorical columns, but {len(self.table_rows)} tables; "
                "each table needs one column"
            )

    def _check_types(self) -> None:
        """Raise DataError for arrays that the kernels cannot read."""
        check_numbers(self.labels, f"{self.origin}, labels", 1)
        if self.sample_weights is not None:
            check_numbers(self.sample_weights, f"{self.origin}, weights", 1)
        check_numbers(self.dense, f"{self.origin}, dense values", 2)
        check_indices(self.ids, f"{self.origin}, ids", 2)
        for s, column in self.multi:
            name = f"{self.origin}, categorical column {s}"
            check_indices(column.ids, name, 2 if column.offsets is None else 1)
            if column.offsets is not None:
                check_indices(column.offsets, f"{name}, offsets", 1)
                if not len(column.offsets):
                    raise ShapeError(f"{name}: no offsets; N rows have N + 1 of them")

    def __len__(self) -> int:
        return len(self.labels)

    def cut(self, start: int, end: int) -> Dataset:
        """Return rows ``start`` to ``end`` as views. Raises DataError if that cuts a list."""
        if not 0 <= start <= end <= len(self):
            raise DataError(
                f"{self.origin} has {len(self)} rows; rows {start} to {end} are out of range"
            )
        lists = self.lists
        if lists is not None:
            first, last = np.searchsorted(lists, (start, end)).tolist()
            if lists[first] != start or lists[last] != end:
                raise DataError(f"{self.origin}: rows {start} to {end} would cut a list")
            lists = lists[first : last + 1] - start
        each = self.sample_weights
        return replace(
            self,
            labels=self.labels[start:end],
            dense=self.dense[start:end],
            ids=self.ids[start:end],
            multi=tuple((s, column.cut(start, end)) for s, column in self.multi),
            sample_weights=None if each is None else each[start:end],
            lists=lists,
        )

    def start_of_list(self, row: int) -> int:
        """Return the first row of the list of a row; without lists, the row itself."""
        if self.lists is None:
            return row
        return int(self.lists[np.searchsorted(self.lists, row, side="right") - 1])

    @property
    def index_dtype(self) -> type[np.int32] | type[np.int64]:
        """Smallest index type that holds every stored id, including ids outside their table."""
        stored = [self.ids, *(column.ids for _, column in self.multi)]
        is_wide = self.max_ind_range <= 0 and any(a.dtype.itemsize > 4 for a in stored)
        return np.int64 if is_wide else index_dtype(self.table_rows)

    def limited(self, max_ind_range: int) -> Dataset:
        """Return the same rows with ids modulo ``max_ind_range``, if that is > 0."""
        if max_ind_range <= 0:
            return self
        rows = tuple(min(rows, max_ind_range) for rows in self.table_rows)
        rules = self.preprocessing and self.preprocessing.limited(max_ind_range)
        return replace(self, table_rows=rows, max_ind_range=max_ind_range, preprocessing=rules)


def concatenate(datasets: Sequence[Dataset]) -> Dataset:
    """Return one data set, in memory, of the rows of several."""
    first = datasets[0]
    multi = zip(*([column for _, column in dataset.multi] for dataset in datasets), strict=True)
    return replace(
        first,
        labels=np.concatenate([dataset.labels for dataset in datasets]),
        dense=np.concatenate([dataset.dense for dataset in datasets]),
        ids=np.concatenate([dataset.ids for dataset in datasets]),
        multi=tuple(
            (s, _concatenate_bags(parts)) for (s, _), parts in zip(first.multi, multi, strict=True)
        ),
        sample_weights=_concatenate_weights(datasets),
        lists=_concatenate_lists(datasets),
    )


def _concatenate_lists(datasets: Sequence[Dataset]) -> NDArray[np.int64] | None:
    """Return the offsets of the lists of several data sets; None unless all have lists."""
    parts, rows = [np.zeros(1, np.int64)], 0
    for dataset in datasets:
        if dataset.lists is None:
            return None
        parts.append(np.asarray(dataset.lists[1:], np.int64) + rows)
        rows += len(dataset)
    return np.concatenate(parts)


def _concatenate_weights(datasets: Sequence[Dataset]) -> NDArray[Any] | None:
    """Return the weights of the rows of several data sets, 1 where one has none."""
    if all(dataset.sample_weights is None for dataset in datasets):
        return None
    return np.concatenate(
        [
            np.ones(len(dataset), np.float32)
            if dataset.sample_weights is None
            else dataset.sample_weights
            for dataset in datasets
        ]
    )


def _concatenate_bags(columns: Sequence[MultiHot]) -> MultiHot:
    """Return one multi-valued column of the rows of several."""
    values, ends = zip(*(column.bags() for column in columns), strict=True)
    bases = np.cumsum([0, *(len(part) for part in values)])
    offsets = [np.zeros(1, np.int64), *(base + end for base, end in zip(bases, ends, strict=False))]
    return MultiHot(np.concatenate(values), np.concatenate(offsets))
