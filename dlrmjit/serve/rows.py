"""Encoded rows of queries: cut, chosen and joined to batches, with what all rows of a user share.

A user's dense values and multi-valued bags are stored once per query, not once per candidate, so
that the engine computes with them once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.data.batch import Batch
from dlrmjit.errors import DataError, ShapeError

Ids = NDArray[np.int32] | NDArray[np.int64]


@dataclass(frozen=True)
class Bags:
    """Lookups of n rows in S tables: ``ids`` (S, n) of one id each, or bags.

    Bags are ``ids`` (L,), table after table, and ``offsets`` (S, n + 1) from 0 on.
    """

    ids: Ids
    offsets: NDArray[np.int64] | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        shape = self.ids.shape if self.offsets is None else self.offsets[:, 1:].shape
        return int(shape[1])

    @property
    def tables(self) -> int:
        """Number of tables, S."""
        return len(self.ids) if self.offsets is None else len(self.offsets)

    def table(self, s: int) -> tuple[Ids, NDArray[np.int64]]:
        """Return the ids (L,) of one table, and the length (n,) of every bag."""
        if self.offsets is None:
            return self.ids[s], np.ones(self.n, np.int64)
        row = self.offsets[s]
        return self.ids[row[0] : row[-1]], np.diff(row)

    def cut(self, start: int, end: int) -> Bags:
        """Return rows ``start`` to ``end``."""
        if self.offsets is None:
            return Bags(self.ids[:, start:end])
        parts = [self.ids[row[start] : row[end]] for row in self.offsets]
        return merged([(p, np.diff(r[start : end + 1])) for p, r in zip(parts, self.offsets)])  # noqa: B905 - as many

    def take(self, chosen: NDArray[np.int64]) -> Bags:
        """Return the rows ``chosen``, in that order."""
        if self.offsets is None:
            return Bags(self.ids[:, chosen])
        return merged([_chosen(self.ids, row, chosen) for row in self.offsets])


def merged(tables: Sequence[tuple[Any, NDArray[np.int64]]]) -> Bags:
    """Return bags from the ids (L,) and lengths (n,) of every table."""
    ids = np.concatenate([part for part, _ in tables])
    lengths = np.stack([part for _, part in tables])
    ends = np.cumsum(lengths, dtype=np.int64).reshape(lengths.shape)
    offsets = np.empty((len(lengths), lengths.shape[1] + 1), np.int64)
    offsets[:, 1:] = ends
    offsets[0, 0] = 0
    if lengths.shape[1]:
        offsets[1:, 0] = ends[:-1, -1]
    else:
        offsets[:, 0] = 0
    return Bags(ids, offsets)


def _chosen(
    ids: Ids, row: NDArray[np.int64], chosen: NDArray[np.int64]
) -> tuple[Ids, NDArray[np.int64]]:
    lengths = (row[1:] - row[:-1])[chosen]
    starts = np.repeat(row[chosen] - np.cumsum(lengths) + lengths, lengths)
    return ids[starts + np.arange(len(starts))], lengths


@dataclass(frozen=True)
class User:
    """What all rows of a query share: one row of bags of ``tables``, and maybe the dense values.

    ``bags`` has a bag for every table of the model, empty ones outside ``tables``.
    """

    tables: tuple[int, ...] = ()
    bags: Bags | None = None
    has_dense: bool = False


@dataclass(frozen=True)
class Rows:
    """n encoded rows: ``dense`` (n, D) or, if the user has all of it, (1, D); ``bags`` (S, n).

    Bags of the tables of ``user`` are empty.
    """

    dense: NDArray[np.float32]
    bags: Bags
    user: User | None = None

    def __len__(self) -> int:
        return self.bags.n

    @property
    def shares_dense(self) -> bool:
        """Whether all rows have the same dense values."""
        return self.user is not None and self.user.has_dense

    @property
    def full_dense(self) -> NDArray[np.float32]:
        """The dense values (n, D) of every row."""
        return np.broadcast_to(self.dense, (len(self), self.dense.shape[1]))

    def cut(self, start: int, end: int) -> Rows:
        """Return rows ``start`` to ``end``."""
        dense = self.dense if self.shares_dense else self.dense[start:end]
        return replace(self, dense=dense, bags=self.bags.cut(start, end))

    def take(self, chosen: NDArray[np.int64]) -> Rows:
        """Return the rows ``chosen``, in that order."""
        dense = self.dense if self.shares_dense else self.dense[chosen]
        return replace(self, dense=dense, bags=self.bags.take(chosen))

    def check(self, architecture: Architecture) -> None:
        """Raise ShapeError or DataError for rows that do not fit the model."""
        if self.dense.shape[1] != architecture.dense_features:
            raise ShapeError(
                f"{self.dense.shape[1]} dense values a row found, expected "
                f"{architecture.dense_features}"
            )
        if self.bags.tables != architecture.tables:
            raise ShapeError(
                f"{self.bags.tables} categorical columns found, expected {architecture.tables}"
            )
        if not np.isfinite(self.dense).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(self.dense))[0])
            raise DataError(
                f"the rows, row {row}, dense column {column}: {self.dense[row, column]} found, "
                "expected a finite number"
            )
        for bags in (self.bags, self.user.bags if self.user else None):
            if bags is not None:
                _check_ids(bags, architecture.table_rows)


def _check_ids(bags: Bags, rows: Sequence[int]) -> None:
    if bags.offsets is None and _are_inside(bags.ids, rows):
        return
    for s, most in enumerate(rows):
        ids, lengths = bags.table(s)
        if not ids.size or (ids.min() >= 0 and ids.max() < most):
            continue
        position = int(np.flatnonzero((ids < 0) | (ids >= most))[0])
        row = int(np.searchsorted(np.cumsum(lengths), position, side="right"))
        raise DataError(
            f"the rows, row {row}, categorical column {s}: id {ids[position]} found, expected 0 to "
            f"{most - 1}"
        )


def _are_inside(ids: Ids, rows: Sequence[int]) -> bool:
    """Return whether ids (S, n) are in tables of so many rows, all tables at once."""
    if not ids.size:
        return True
    return bool(ids.min() >= 0 and (ids.max(axis=1) < np.asarray(rows)).all())


def joined(parts: Sequence[Bags], size: int) -> Bags:
    """Return the bags of all parts, the last row repeated up to ``size`` rows."""
    n = sum(part.n for part in parts)
    if size > n:
        last = parts[-1]
        parts = [*parts, *[last.cut(last.n - 1, last.n)] * (size - n)]
    if all(part.offsets is None for part in parts):
        return Bags(np.concatenate([part.ids for part in parts], axis=1))
    tables = []
    for s in range(parts[0].tables):
        ids, lengths = zip(*(part.table(s) for part in parts), strict=True)
        tables.append((np.concatenate(ids), np.concatenate(lengths)))
    return merged(tables)


def batch_of(dense: NDArray[np.float32], bags: Bags) -> Batch:
    """Return rows as a batch without labels."""
    offsets = bags.offsets
    if offsets is None:
        n = bags.n
        offsets = np.arange(n + 1, dtype=np.int64) + n * np.arange(bags.tables)[:, None]
    labels = np.full(len(dense), np.nan, np.float32)
    ids: Any = np.ascontiguousarray(bags.ids).reshape(-1)
    return Batch.unchecked(np.ascontiguousarray(dense), ids, offsets, labels)


def bags_of(batch: Batch) -> Bags:
    """Return the lookups of a batch, as one id per row where every bag has one."""
    n, tables = batch.n, len(batch.offsets)
    is_one = batch.indices.size == n * tables and (np.diff(batch.offsets, axis=1) == 1).all()
    if is_one:
        return Bags(batch.indices.reshape(tables, n))
    return Bags(batch.indices, batch.offsets)
