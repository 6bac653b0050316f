"""The training rows as the sparse matrix of a linear model.

Sums are NumPy's own, not those of a BLAS library, whose bits depend on its threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.batch import Batch

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """All rows of a source as one sparse matrix with the columns of a linear model.

    Lookup i is by row ``rows[i]`` in weight ``columns[i]`` of all tables, times ``factors[i]``.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    factors: F64 | None
    dense: F64
    labels: F64
    weights: F64
    table_rows: tuple[int, ...]

    @classmethod
    def of(cls, batches: Iterable[Batch], table_rows: tuple[int, ...]) -> Design:
        """Return the rows of all batches, whose lookups are in tables of so many rows."""
        starts = np.concatenate([[0], np.cumsum(table_rows)])
        rows, columns, factors, dense, labels, weights = [], [], [], [], [], []
        first = 0
        for batch in batches:
            counts = np.diff(batch.offsets, axis=1)
            samples = np.arange(first, first + batch.n)
            for s in range(batch.tables):
                rows.append(np.repeat(samples, counts[s]))
                columns.append(batch.table(s)[0] + starts[s])
            factors.append(np.ones(len(batch.indices)) if batch.weights is None else batch.weights)
            dense.append(batch.dense)
            labels.append(batch.labels)
            given = batch.sample_weights
            weights.append(np.ones(batch.n) if given is None else given)
            first += batch.n
        scale = np.concatenate(factors).astype(np.float64)
        return cls(
            np.concatenate(rows),
            np.concatenate(columns).astype(np.int64),
            None if (scale == 1).all() else scale,
            np.concatenate(dense).astype(np.float64),
            np.concatenate(labels).astype(np.float64),
            np.concatenate(weights).astype(np.float64),
            table_rows,
        )

    @property
    def groups(self) -> NDArray[np.int64]:
        """The group of every weight: one per table, one of the dense features, one of the bias."""
        s, dense = len(self.table_rows), self.dense.shape[1]
        return np.repeat(np.arange(s + 2), [*self.table_rows, dense, 1])

    def scores(self, w: F64, squared: bool = False) -> F64:
        """Return the products (N,) of every row, or of its squares, with ``w`` (weights,)."""
        power, tables, found = 2 if squared else 1, sum(self.table_rows), w[self.columns]
        if self.factors is not None:
            found = found * self.factors**power
        sums = np.bincount(self.rows, found, len(self.labels))
        logits: F64 = sums + np.einsum("nd,d->n", self.dense**power, w[tables:-1]) + w[-1]
        return logits

    def transposed(self, r: F64, squared: bool = False) -> F64:
        """Return the products (weights,) of every column with ``r`` (N,), or of its squares."""
        power, found = 2 if squared else 1, r[self.rows]
        if self.factors is not None:
            found = found * self.factors**power
        tables = np.bincount(self.columns, found, sum(self.table_rows))
        dense = np.einsum("n,nd->d", r, self.dense**power)
        return np.concatenate([tables, dense, [r.sum()]])

    def lookups_of_tables(self) -> list[Lookups]:
        """Return the lookups of each table."""
        counts = np.array(self.table_rows)
        of_table = np.repeat(np.arange(len(counts)), counts)[self.columns]
        order = np.argsort(of_table, kind="stable")
        parts = np.split(order, np.searchsorted(of_table[order], np.arange(1, len(counts))))
        n, starts = len(self.labels), np.cumsum(counts) - counts
        return [
            Lookups(
                self.rows[part],
                self.columns[part] - start,
                None if self.factors is None else self.factors[part],
                (n, count),
            )
            for part, start, count in zip(parts, starts, self.table_rows, strict=True)
        ]


class Lookups:
    """The lookups of one table as a sparse matrix of ``shape``: rows by the table's rows."""

    def __init__(
        self,
        rows: NDArray[np.int64],
        ids: NDArray[np.int64],
        factors: F64 | None,
        shape: tuple[int, int],
    ) -> None:
        self._n, self._count = shape
        is_one_each = len(rows) == self._n and bool((rows == np.arange(self._n)).all())
        self._rows = None if is_one_each else rows
        self._ids, self._factors = ids, factors

    def spread(self, values: F64, squared: bool = False) -> F64:
        """Return the products (N,) of every row, or of its squares, with ``values`` (M,)."""
        found = self._scaled(values[self._ids], squared)
        if self._rows is None:
            return found
        return _sums(self._rows, found, self._n)

    def collect(self, r: F64, squared: bool = False) -> F64:
        """Return the products (M,) of every column, or of its squares, with ``r`` (N,)."""
        found = r if self._rows is None else r[self._rows]
        return _sums(self._ids, self._scaled(found, squared), self._count)

    def bound(self, r: F64) -> F64:
        """Return ``collect(r, squared=True)`` (M,), or more where a row has several lookups.

        Divided by it, steps of all columns at once go no farther than all of them may.
        """
        if self._rows is None:
            return self.collect(r, squared=True)
        sizes = np.ones(len(self._rows)) if self._factors is None else np.abs(self._factors)
        totals = np.bincount(self._rows, sizes, self._n)
        return _sums(self._ids, (r * totals)[self._rows] * sizes, self._count)

    def _scaled(self, values: F64, squared: bool) -> F64:
        if self._factors is None:
            return values
        return values * (self._factors**2 if squared else self._factors)


def _sums(places: NDArray[np.int64], values: F64, count: int) -> F64:
    """Return the sums (count,) of the values at each place, also of no values."""
    return np.bincount(places, values, count).astype(np.float64, copy=False)
