"""Parquet files with any columns as an input of a preparation, read in batches of rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from dlrmjit.data.prepare.inputs.arrow_batches import ArrowReader, first_line
from dlrmjit.data.prepare.inputs.base import FEATURES_AND_LABELS, ParsedChunk, Wanted
from dlrmjit.data.prepare.layout import layout_of
from dlrmjit.data.schema import Schema
from dlrmjit.errors import DataError

_ROWS = 1 << 15


@dataclass(frozen=True)
class _Rows:
    """A batch of rows of an input; ``after`` is the row of the file that follows it."""

    file: int
    batch: Any
    after: int


class ParquetFormat:
    """The columns of Parquet files that a schema names.

    Raises ConfigError without pyarrow, DataError for files that are damaged or lack a column.
    """

    def __init__(
        self, paths: tuple[Path, ...], schema: Schema, wanted: Wanted = FEATURES_AND_LABELS
    ) -> None:
        self.layout = layout_of(schema)
        self._reader = ArrowReader(schema, "write the data as CSV", wanted)
        self._arrow = self._reader.arrow
        self.expected = f"rows of columns {', '.join(self._reader.columns)}"
        self._paths = paths
        self._rows = [self._check(path) for path in paths]

    def _check(self, path: Path) -> int:
        """Return the number of rows of a file; raise DataError if it lacks a column."""
        with self._errors(f"{path} is not a complete Parquet file"), self._open(path) as file:
            self._reader.check(file.schema_arrow, str(path))
            return int(file.metadata.num_rows)

    def _open(self, path: Path) -> Any:
        return self._reader.parquet.ParquetFile(path, memory_map=False, pre_buffer=False)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Convert pyarrow's errors to DataError; names in a file may not be UTF-8."""
        try:
            yield
        except (OSError, UnicodeDecodeError, self._arrow.ArrowException) as error:
            raise DataError(f"{what}: {first_line(error)}") from None

    def sizes(self) -> list[int] | None:
        """Return the rows of each file."""
        return self._rows

    def chunks(
        self, file: int, offset: int, lines: int, stop: int | None = None
    ) -> Iterator[_Rows]:
        """Yield batches from row ``offset`` of input ``file`` on.

        With ``stop``, only those of that file up to this row, where a row group starts.
        """
        for number in range(file, len(self._paths) if stop is None else file + 1):
            with self._errors(f"{self._paths[number]} cannot be read"):
                last = self._rows[number] if stop is None else stop
                yield from self._chunks_of(number, offset if number == file else 0, last)

    def cuts(self, file: int, count: int) -> list[int]:
        """Return where row groups start that cut a file into parts."""
        with (
            self._errors(f"{self._paths[file]} cannot be read"),
            self._open(self._paths[file]) as opened,
        ):
            groups = range(opened.num_row_groups)
            rows = [opened.metadata.row_group(group).num_rows for group in groups]
        starts = [0, *accumulate(rows)][:-1]
        parts = {start * count // max(1, self._rows[file]): start for start in reversed(starts)}
        return sorted(start for start in parts.values() if start)

    def lines_before(self, file: int, position: int) -> int:
        """Return the number of rows before row ``position``."""
        return position

    def _chunks_of(self, number: int, offset: int, stop: int) -> Iterator[_Rows]:
        """Yield batches of one file; row groups without rows to read are not read."""
        with self._open(self._paths[number]) as file:
            end = 0
            for group in range(file.num_row_groups):
                start, end = end, end + file.metadata.row_group(group).num_rows
                if end <= offset or start >= stop:
                    continue
                columns = list(self._reader.columns)
                batches = file.iter_batches(_ROWS, row_groups=[group], columns=columns)
                for batch in batches:
                    start += batch.num_rows
                    if start > offset:
                        yield _Rows(number, batch, start)

    def release(self, chunk: _Rows) -> None:
        """Release the memory of freed batches, which Arrow's pool would otherwise hold."""
        self._arrow.default_memory_pool().release_unused()

    def parse(self, chunk: _Rows) -> ParsedChunk:
        """Return the columns of a batch."""
        origin = str(self._paths[chunk.file])
        return self._reader.parse(chunk.batch, origin, chunk.file, chunk.after)
