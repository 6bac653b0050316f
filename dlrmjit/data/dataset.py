"""Rows of a data set wherever they lie: arrays in memory, or files mapped into it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.config.model import Bounds
from dlrmjit.data.source import index_dtype
from dlrmjit.errors import DataError, ShapeError


@dataclass(frozen=True)
class MultiHot:
    """A column of any number of ids per row: those of row r are ``ids[offsets[r]:offsets[r+1]]``.

    ``offsets`` (N + 1,) int64. Where every row has as many, ``ids`` may be (N, P) and
    ``offsets`` None.
    """

    ids: NDArray[Any]
    offsets: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.ids) if self.offsets is None else len(self.offsets) - 1

    @property
    def size(self) -> int:
        """Ids of all rows."""
        if self.offsets is None:
            return int(self.ids.size)
        return int(self.offsets[-1] - self.offsets[0])

    def cut(self, start: int, end: int) -> MultiHot:
        """Rows ``start`` to ``end``, not copied."""
        if self.offsets is None:
            return MultiHot(self.ids[start:end])
        return MultiHot(self.ids, self.offsets[start : end + 1])

    def bags(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """All ids, and where each row's end among them."""
        if self.offsets is None:
            return self.ids.reshape(-1), np.arange(1, len(self) + 1) * self.ids.shape[1]
        first = int(self.offsets[0])
        ends = np.asarray(self.offsets[1:], np.int64) - first
        return self.ids[first : first + self.size], ends


@dataclass(frozen=True)
class Dataset:
    """N rows: ``labels`` (N,), ``dense`` (N, D), ``ids`` of any integer or real type.

    ``multi`` holds the columns of several ids per row, by number of their table; ``ids`` the
    others, in order. ``log_transform`` says that the model is to see log(max(x, 0) + 1) of
    dense values. ``max_ind_range`` > 0 takes ids modulo it. An id outside its table is refused
    when a batch is made, unless ``bounds`` leave it to the model's tables.
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

    def __post_init__(self) -> None:
        n = len(self.labels)
        if len(self.dense) != n or len(self.ids) != n:
            raise ShapeError(
                f"{self.origin}: {n} labels, {len(self.dense)} rows of dense values and "
                f"{len(self.ids)} rows of ids do not belong together"
            )
        columns = self.ids.shape[1] + len(self.multi)
        if columns != len(self.table_rows):
            raise ShapeError(
                f"{self.origin}: {columns} columns of ids for {len(self.table_rows)} tables"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def cut(self, start: int, end: int) -> Dataset:
        """Rows ``start`` to ``end``, not copied."""
        if not 0 <= start <= end <= len(self):
            raise DataError(f"{self.origin} has {len(self)} rows, not {start} to {end}")
        return replace(
            self,
            labels=self.labels[start:end],
            dense=self.dense[start:end],
            ids=self.ids[start:end],
            multi=tuple((s, column.cut(start, end)) for s, column in self.multi),
        )

    @property
    def index_dtype(self) -> type[np.int32] | type[np.int64]:
        """The narrowest type of index that holds every id stored, wrong ones too."""
        stored = [self.ids, *(column.ids for _, column in self.multi)]
        is_wide = self.max_ind_range <= 0 and any(a.dtype.itemsize > 4 for a in stored)
        return np.int64 if is_wide else index_dtype(self.table_rows)

    def limited(self, max_ind_range: int) -> Dataset:
        """The same rows with ids modulo ``max_ind_range``, where that is > 0."""
        if max_ind_range <= 0:
            return self
        rows = tuple(min(rows, max_ind_range) for rows in self.table_rows)
        return replace(self, table_rows=rows, max_ind_range=max_ind_range)
