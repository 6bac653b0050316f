"""Counts of values that a vocabulary does not have, which a user needs to see.

A file whose ids were written as ``1.0`` where training had ``1`` can be scored, but every value
of the column is then unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.prepared.preprocessing import Preprocessing

_SHOWN = 40


@dataclass
class ColumnCount:
    """Unknown values of one column, the number of all its values, and the first unknown one."""

    name: str
    unknown: int = 0
    values: int = 0
    first: str = ""


class UnknownValues:
    """Counts by column, for the columns that have a vocabulary; missing values do not count."""

    def __init__(self, rules: Preprocessing) -> None:
        self.columns = [ColumnCount(column.name) for column in rules.columns]

    def add(self, other: UnknownValues) -> None:
        """Add the counts of rows that follow."""
        for ours, theirs in zip(self.columns, other.columns, strict=True):
            ours.first = ours.first if ours.unknown else theirs.first
            ours.unknown += theirs.unknown
            ours.values += theirs.values

    def count_texts(
        self,
        j: int,
        found: NDArray[np.int32],
        lengths: NDArray[np.int32],
        text: NDArray[np.uint8],
    ) -> None:
        """Count the texts of column ``j``, of which ``found`` has ids, -1 for unknown ones."""
        column, is_unknown = self.columns[j], found < 0
        column.values += int(np.count_nonzero(lengths))
        count = int(np.count_nonzero(is_unknown & (lengths > 0)))
        if count and not column.unknown:
            first = int(np.argmax(is_unknown & (lengths > 0)))
            start = int(lengths[:first].sum(dtype=np.int64))
            raw = text[start : start + int(lengths[first])].tobytes()
            column.first = raw.decode("utf-8", "replace")[:_SHOWN]
        column.unknown += count

    def count_hashes(self, j: int, found: NDArray[np.int32], values: NDArray[np.uint32]) -> None:
        """Count the hashes of column ``j``; hash 0 is a missing value."""
        column, is_unknown = self.columns[j], (found < 0) & (values != 0)
        column.values += int(np.count_nonzero(values))
        count = int(np.count_nonzero(is_unknown))
        if count and not column.unknown:
            column.first = f"{int(values[np.argmax(is_unknown)]):08x}"
        column.unknown += count

    def by_column(self) -> dict[str, int]:
        """Return the number of unknown values of each column."""
        return {column.name: column.unknown for column in self.columns}
