"""Delimited text with any columns as an input of a preparation."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from dlrmjit_kernels.data.csv import (
    ENCODING,
    IGNORED_FIELD,
    LABEL,
    LABEL_FIELD,
    NUMBER,
    QUOTES,
    parse_fields,
)
from dlrmjit_kernels.data.strings import extract_values
from numpy.typing import NDArray

from dlrmjit.data.formats.text_blocks import open_text, reading
from dlrmjit.data.prepare.inputs.base import ParsedChunk
from dlrmjit.data.prepare.inputs.text_chunks import (
    ChunkedText,
    TextChunk,
    line_limit,
    too_long,
)
from dlrmjit.data.prepare.layout import layout_of
from dlrmjit.data.schema import CategoricalColumn, Schema
from dlrmjit.errors import DataError

_END = 10
_SHOWN = 40


class CsvFormat(ChunkedText):
    """Lines of delimited fields, of which the columns that the schema names are read.

    Raises DataError for a file whose header lacks one of them.
    """

    def __init__(
        self, paths: tuple[Path, ...], schema: Schema, skip_bad: bool, buffers: int
    ) -> None:
        super().__init__(paths, buffers)
        self.layout = layout_of(schema)
        self.expected = f"lines of columns {', '.join(schema.names)}"
        self._schema, self._skip_bad = schema, skip_bad
        self._columns = [schema.columns or _header(path, schema.delimiter) for path in paths]
        self._kinds = [
            _kinds(columns, schema, path)
            for columns, path in zip(self._columns, paths, strict=True)
        ]

    def parse(self, chunk: TextChunk) -> ParsedChunk:
        """Return the columns of a chunk."""
        schema, text = self._schema, chunk.buffer.text
        first = self._after_header(chunk)
        capacity = int(np.count_nonzero(text[first : chunk.end] == _END))
        labels = np.empty(capacity, np.uint8)
        dense = np.empty((len(schema.dense), capacity), np.float32)
        positions = np.empty((len(schema.categorical), 2, capacity), np.int32)
        bad = np.zeros(6, np.int64)
        threshold = np.nan if schema.threshold is None else float(schema.threshold)
        lines, rows, skipped = parse_fields(
            text,
            first,
            chunk.end,
            self._skip_bad,
            ord(schema.delimiter),
            self._kinds[chunk.file],
            threshold,
            labels,
            dense,
            positions,
            bad,
        )
        columns: list[NDArray[Any]] = [labels[:rows], *dense[:, :rows]]
        for column, (firsts, stops) in zip(schema.categorical, positions[:, :, :rows], strict=True):
            columns += stage_values(text, firsts, stops, column)
        if chunk.is_too_long:
            path = str(self._paths[chunk.file])
            return ParsedChunk(chunk.file, chunk.after, 1, 1, too_long(path), columns)
        lines_before = int(first > 0)
        line = text[bad[1] : bad[2]].tobytes()

        def explain(first_line: int) -> str:
            return self._describe_error(
                chunk.file, line, first_line + lines_before + int(bad[0]), bad[3:].tolist()
            )

        return ParsedChunk(chunk.file, chunk.after, lines + lines_before, skipped, explain, columns)

    def _after_header(self, chunk: TextChunk) -> int:
        """Return where the rows of a chunk start: after the header, in a file's first chunk."""
        if self._schema.columns or chunk.start or chunk.is_too_long:
            return 0
        return chunk.buffer.raw.find(b"\n", 0, chunk.end) + 1

    def _describe_error(self, file: int, line: bytes, number: int, bad: Sequence[int]) -> str:
        field, reason, found = bad
        where, columns = f"{self._paths[file]}, line {number}", self._columns[file]
        if reason == ENCODING:
            return f"{where}: not UTF-8 text"
        if reason not in (QUOTES, NUMBER, LABEL):
            return f"{where}: {found} columns, expected {len(columns)} ({', '.join(columns)})"
        name = columns[field] if field < len(columns) else str(field + 1)
        if reason == QUOTES:
            return (
                f"{where}, column {name}: a quoted field must end before a delimiter or line end; "
                "line ends within quotes are not supported"
            )
        shown = _field(line, field, self._schema.delimiter)
        return f"{where}, column {name}: {shown!r} found, expected {self._wanted(reason)}"

    def _wanted(self, reason: int) -> str:
        if reason == NUMBER:
            return "a number or nothing"
        return "0 or 1" if self._schema.threshold is None else "a number"


def stage_values(
    text: NDArray[np.uint8],
    firsts: NDArray[Any],
    stops: NDArray[Any],
    column: CategoricalColumn,
) -> list[NDArray[Any]]:
    """Return a category's columns for staging, of the fields from ``firsts`` to ``stops``."""
    ends = np.where(stops < 0, -1 - stops, stops)
    size = int((ends - firsts).sum())
    separator = ord(column.separator) if column.separator else -1
    most = size // 2 + len(firsts) + 1 if column.separator else len(firsts)
    counts = np.empty(len(firsts), np.int32)
    lengths, out = np.empty(most, np.int32), np.empty(size, np.uint8)
    values, size = extract_values(text, firsts, stops, separator, counts, lengths, out)
    return [*([counts] if column.is_multi else []), lengths[:values], out[:size]]


def _header(path: Path, delimiter: str) -> tuple[str, ...]:
    """Return the names of the columns in the first line of a file."""
    with reading(path), open_text(path) as file:
        line = file.readline(line_limit())
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}, line 1: not UTF-8 text") from None
    if len(line) == line_limit():
        raise DataError(f"{path}, line 1: longer than {line_limit() >> 20} MiB")
    names = next(csv.reader([text.rstrip("\r\n")], delimiter=delimiter), [])
    return tuple(names)


def _kinds(columns: Sequence[str], schema: Schema, path: Path) -> NDArray[np.int64]:
    """Return the kind of each field of a line, numbered as the kernel expects."""
    for name in schema.names:
        if columns.count(name) != 1:
            times = columns.count(name) or "no"
            raise DataError(
                f"{path}, line 1: {times} columns called {name!r} among {', '.join(columns)}; the "
                "schema needs exactly one"
            )
    kinds = np.full(len(columns), IGNORED_FIELD, np.int64)
    for kind, name in enumerate(schema.names, LABEL_FIELD):
        kinds[columns.index(name)] = kind
    return kinds


def _field(line: bytes, field: int, delimiter: str) -> str:
    """Return one field of a line, shortened for a message."""
    fields = next(csv.reader([line.decode("utf-8", "replace")], delimiter=delimiter), [])
    shown = fields[field] if field < len(fields) else ""
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."
