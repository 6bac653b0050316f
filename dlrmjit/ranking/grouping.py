"""Finds the lists of rows: the rows with one value in a column, wherever they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from dlrmjit_kernels.list_metrics import list_ranks
from numpy.typing import NDArray

from dlrmjit.data.formats.arrow import python_values
from dlrmjit.errors import DataError

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Lists:
    """The rows of all lists, list after list: list l has ``order[offsets[l]:offsets[l + 1]]``.

    ``order`` (N,) int64 are numbers of rows, rising within a list; ``offsets`` (lists + 1,) int64.
    """

    order: I64
    offsets: I64

    def ranks(self, scores: NDArray[Any]) -> I64:
        """Return the rank of every row within its list, 1 for the highest of ``scores`` (N,).

        Of equal scores the earlier row has the better rank.
        """
        ranks: I64 = self.scatter(list_ranks(scores[self.order], self.offsets))
        return ranks

    def scatter(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values (N,), given in the order of lists, in the order of rows."""
        by_row = np.empty_like(values)
        by_row[self.order] = values
        return by_row


class ListColumn:
    """Numbers the values of a column, which comes in parts, in the order of first appearance."""

    def __init__(self, name: str, missing: tuple[str, ...] = ()) -> None:
        self._name, self._missing = name, frozenset((None, "", *missing))
        self._numbers: dict[Any, int] = {}
        self._parts: list[I64] = [np.empty(0, np.int64)]

    def add(self, values: Any) -> None:
        """Add the next rows: a list of values, or an Arrow array.

        Raises DataError for a row without a value, which belongs to no list, or with one that
        Python cannot hold.
        """
        column = python_values(values, self._name)
        numbers = self._numbers
        try:
            self._check(column)
            found = (numbers.setdefault(value, len(numbers)) for value in column)
            self._parts.append(np.fromiter(found, np.int64, len(column)))
        except TypeError:  # not hashable
            raise DataError(
                f"column {self._name!r} has values of type {type(column[0]).__name__}; a list is "
                "named by one value, such as a number or text"
            ) from None

    def _check(self, column: list[Any]) -> None:
        for i, value in enumerate(column):
            if value in self._missing or value != value:  # NaN differs from itself
                row = sum(map(len, self._parts)) + i
                raise DataError(
                    f"row {row} (from 0) has no value in column {self._name!r}, but {value!r}, so "
                    "it is in no list; fill the column or leave such rows out"
                )

    def lists(self) -> Lists:
        """Return the lists of all rows so far, in the order of their first rows."""
        ids = np.concatenate(self._parts)
        lengths = np.bincount(ids, minlength=len(self._numbers))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Lists(np.argsort(ids, kind="stable").astype(np.int64), offsets)
