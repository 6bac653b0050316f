"""One stored embedding table as a value: its parameter, its size, and the rows that it looks up."""

from __future__ import annotations

from typing import Any, NamedTuple


class TableSpec(NamedTuple):
    """One stored table: its parameter's name, categorical column, and size (rows, dim).

    ``slot`` is its number among the stored tables of its node. A column of ``column_rows`` values
    may be in two tables, of quotients and of remainders: then ``divisor`` or ``modulus`` is
    positive, and value v of the column is row v // divisor, or v % modulus. With ``mean`` a bag is
    divided by its length. With ``positions`` L, a bag has a vector of each of its last L lookups.
    """

    name: str
    node: str
    slot: int
    column: int
    rows: int
    dim: int
    column_rows: int
    divisor: int = 0
    modulus: int = 0
    mean: bool = False
    positions: int = 0

    def rows_of(self, values: Any) -> Any:
        """Return the rows of values of the column."""
        if self.divisor:
            return values // self.divisor
        return values % self.modulus if self.modulus else values
