"""Which categorical columns have any 64-bit ids, and when such an id gets a row of its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dlrmjit.errors import ConfigError

_BYTES_OF_KEY = 64  # of slots of the hash table, right after it has grown
_MOST_ROWS = (1 << 31) - 2
DYNAMIC = "dynamic"
"""Stands for the number of rows of a table in ``ModelConfig.table_rows``."""


@dataclass(frozen=True)
class DynamicIds:
    """Columns whose ids are any 64-bit integers, which get rows when they are seen in training.

    Parameters
    ----------
    columns : the columns; by default those whose number of rows is ``"dynamic"``
    after : how often an id must be seen in training before it has a row
    max_age : steps of training after which an id that was not seen is forgotten, and its row given
        to another; 0 for never
    limit : bytes of each table and its ids, states of the optimizer excluded, from which the number
        of rows follows where it is ``"dynamic"``

    An id without a row has a vector of zeros, which is not trained: one that was never seen, was
    forgotten, or for which no row was left.
    """

    columns: tuple[int, ...] = ()
    after: int = 1
    max_age: int = 0
    limit: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(int(column) for column in self.columns))
        if self.after < 1 or self.max_age < 0 or self.limit < 0:
            raise ConfigError(
                "dynamic ids need at least 1 sighting and an age and a limit of at least 0, not "
                f"{self.after}, {self.max_age} and {self.limit}"
            )

    @classmethod
    def of(cls, value: DynamicIds | Mapping[str, Any] | None) -> DynamicIds | None:
        """Return the value, which may be a description by :meth:`to_dict`.

        Raises ConfigError for a description of something else.
        """
        if not isinstance(value, Mapping):
            return value
        try:
            return cls(**value)
        except TypeError as error:
            raise ConfigError(f"not a description of dynamic ids: {error}") from error

    def check_updates(self, batches: int) -> None:
        """Raise ConfigError if an id may be forgotten before ``batches`` have become an update."""
        if 0 < self.max_age < batches:
            raise ConfigError(
                f"ids that are forgotten after {self.max_age} batches cannot be updated by the "
                f"gradients of {batches}; give a greater age"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        found = {"columns": list(self.columns), "after": self.after, "max_age": self.max_age}
        return {**found, "limit": self.limit} if self.limit else found

    def resolved(
        self, table_rows: Sequence[int | str], width: int
    ) -> tuple[tuple[int, ...], DynamicIds]:
        """Return the numbers of rows of tables of ``width`` columns, and these ids without a limit.

        Raises ConfigError where rows are ``"dynamic"``, but no limit says how many there are.
        """
        found = tuple(s for s, rows in enumerate(table_rows) if rows == DYNAMIC)
        if found and self.columns and found != self.columns:
            raise ConfigError(
                f"tables {found} have dynamic rows, but the columns of dynamic ids are "
                f"{self.columns}; give one of the two"
            )
        rows = rows_within(self.limit, width) if found else 0
        counts = tuple(rows if count == DYNAMIC else int(count) for count in table_rows)
        return counts, replace(self, columns=found or self.columns, limit=0)


def rows_within(limit: int, width: int) -> int:
    """Return the rows of a table of ``width`` columns that fit into ``limit`` bytes with their ids.

    Raises ConfigError if not a single one fits.
    """
    rows = limit // (4 * width + _BYTES_OF_KEY)
    if rows < 1:
        raise ConfigError(
            f"a table with dynamic rows of {width} columns needs a limit of at least "
            f"{4 * width + _BYTES_OF_KEY} bytes, not {limit}"
        )
    return min(rows, _MOST_ROWS)
