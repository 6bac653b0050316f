"""Tables in memory as inputs: Arrow tables, and DataFrames of pandas and polars."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dlrmjit.data.prepare.inputs.arrow_batches import ArrowReader, first_line
from dlrmjit.data.prepare.inputs.base import ParsedChunk, Wanted, check_columns
from dlrmjit.data.prepare.layout import layout_of
from dlrmjit.data.schema import Schema
from dlrmjit.errors import DataError

_ROWS = 1 << 15


def is_table(rows: object) -> bool:
    """Return whether ``rows`` is an Arrow table or batch, or a DataFrame."""
    kind = type(rows)
    package = kind.__module__.partition(".")[0]
    return (package, kind.__name__) in (
        ("pandas", "DataFrame"),
        ("polars", "DataFrame"),
        ("pyarrow", "Table"),
        ("pyarrow", "RecordBatch"),
    )


@dataclass(frozen=True)
class _Rows:
    batch: Any
    after: int


class TableFormat:
    """The columns of a table in memory that a schema names.

    Raises ConfigError without pyarrow, DataError for a table that lacks a column.
    """

    def __init__(self, table: Any, schema: Schema, wanted: Wanted, origin: str) -> None:
        self.layout = layout_of(schema)
        self._reader = ArrowReader(schema, "give the rows as a list of dicts", wanted)
        self.expected = f"rows of columns {', '.join(self._reader.columns)}"
        self._origin = origin
        found = getattr(table, "column_names", None) or list(table.columns)
        check_columns([str(name) for name in found], schema, wanted, origin)
        self._table = self._as_arrow(table)
        if self._table.num_rows:  # a column without values may have any type
            self._reader.check(self._table.schema, origin)

    def _as_arrow(self, table: Any) -> Any:
        """Return the columns to read as an Arrow table."""
        arrow, names = self._reader.arrow, list(self._reader.columns)
        package = type(table).__module__.partition(".")[0]
        if package == "pyarrow":
            whole = table if isinstance(table, arrow.Table) else arrow.Table.from_batches([table])
            return whole.select(names)
        if package == "polars":
            chosen = type(table)([table.get_column(name) for name in names])  # none is a pattern
            for name, kind in chosen.schema.items():
                if kind.is_object():  # Arrow would get the addresses of the objects
                    raise DataError(
                        f"{self._origin}: column {name} has type {kind}, whose values have no "
                        "meaning; give a column values of one type"
                    )
        try:
            if package == "polars":
                return chosen.to_arrow()
            known = [str(name) for name in table.columns]  # which may be numbers
            chosen = table.iloc[:, [known.index(name) for name in names]].set_axis(names, axis=1)
            return arrow.Table.from_pandas(chosen, preserve_index=False)
        except (arrow.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{self._origin}: {first_line(error)}; give a column values of one type"
            ) from None

    def sizes(self) -> list[int] | None:
        """Return the number of rows."""
        return [self._table.num_rows]

    def chunks(self, file: int, offset: int, lines: int) -> Iterator[_Rows]:
        """Yield batches of rows from row ``offset`` on."""
        after = offset
        for batch in self._table.slice(offset).to_batches(max_chunksize=_ROWS):
            after += batch.num_rows
            yield _Rows(batch, after)

    def parse(self, chunk: _Rows) -> ParsedChunk:
        """Return the columns of a batch."""
        return self._reader.parse(chunk.batch, self._origin, 0, chunk.after)

    def release(self, chunk: _Rows) -> None:
        """Do nothing: the table owns its memory."""
