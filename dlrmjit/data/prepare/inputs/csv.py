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
    TIME,
    FieldColumns,
    FieldRules,
    parse_fields,
)
from dlrmjit_kernels.data.strings import drop_missing, extract_values
from numpy.typing import NDArray

from dlrmjit.data.formats.text_blocks import open_text, reading
from dlrmjit.data.prepare.files.vocabularies import texts_of
from dlrmjit.data.prepare.inputs.base import (
    FEATURES_AND_LABELS,
    ParsedChunk,
    Wanted,
    check_columns,
    columns_to_read,
)
from dlrmjit.data.prepare.inputs.text_chunks import (
    ChunkedText,
    TextChunk,
    line_limit,
    too_long,
)
from dlrmjit.data.prepare.inputs.times import EXPECTED, Times, time_codes
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
        self,
        paths: tuple[Path, ...],
        schema: Schema,
        skip_bad: bool,
        buffers: int,
        wanted: Wanted = FEATURES_AND_LABELS,
    ) -> None:
        super().__init__(paths, buffers)
        self.layout = layout_of(schema)
        self.expected = f"lines of columns {', '.join(columns_to_read(schema, wanted))}"
        self._schema, self._skip_bad, self._wanted = schema, skip_bad, wanted
        self._missing = pack_texts(schema.missing)
        self._columns = [_column_names(path, schema, wanted) for path in paths]
        self._kinds = [
            _kinds(columns, schema, wanted, path)
            for columns, path in zip(self._columns, paths, strict=True)
        ]

    def parse(self, chunk: TextChunk) -> ParsedChunk:
        """Return the columns of a chunk."""
        schema, text = self._schema, chunk.buffer.text
        first, lines_before = self._first_row(chunk)
        capacity = int(np.count_nonzero(text[first : chunk.end] == _END))
        labels = np.zeros(capacity, self.layout.label_type)
        dense = np.empty((len(schema.dense), capacity), np.float64)
        texts = len(schema.categorical) + len(self._wanted.keys)
        positions = np.empty((texts, 2, capacity), np.int32)
        bad = np.zeros(6, np.int64)
        lines, rows, skipped = parse_fields(
            text,
            first,
            chunk.end,
            self._skip_bad,
            ord(schema.delimiter),
            FieldRules(*self._kinds[chunk.file], *self._missing),
            _threshold(schema),
            FieldColumns(labels, dense, positions),
            bad,
        )
        columns: list[NDArray[Any]] = [labels[:rows], *dense[:, :rows]]
        fields = positions[:, :, :rows]
        for column, (firsts, stops) in zip(schema.categorical, fields, strict=False):
            columns += self._category(text, firsts, stops, column)
        if chunk.is_too_long:
            path = str(self._paths[chunk.file])
            return ParsedChunk(chunk.file, chunk.after, 1, 1, too_long(path), columns)
        keys = [_key_texts(text, *field) for field in fields[len(schema.categorical) :]]
        line = text[bad[1] : bad[2]].tobytes()

        def explain(first_line: int) -> str:
            return self._describe_error(
                chunk.file, line, first_line + lines_before + int(bad[0]), bad[3:].tolist()
            )

        return ParsedChunk(
            chunk.file, chunk.after, lines + lines_before, skipped, explain, columns, keys
        )

    def _category(
        self,
        text: NDArray[np.uint8],
        firsts: NDArray[Any],
        stops: NDArray[Any],
        column: CategoricalColumn,
    ) -> list[NDArray[Any]]:
        """Return a category's columns for staging."""
        if not column.time:
            return stage_values(text, firsts, stops, column, self._schema.missing_texts(column))
        lengths, out = stage_values(text, firsts, stops, column)
        return Times.of_texts(out, lengths, self._missing).categories(column.time)

    def _first_row(self, chunk: TextChunk) -> tuple[int, int]:
        """Return where the rows of a chunk start, and the lines before them: a file's header."""
        if self._schema.columns or chunk.start or chunk.is_too_long:
            return chunk.first, 0
        return chunk.buffer.raw.find(b"\n", 0, chunk.end) + 1, 1

    def _describe_error(self, file: int, line: bytes, number: int, bad: Sequence[int]) -> str:
        field, reason, found = bad
        where, columns = f"{self._paths[file]}, line {number}", self._columns[file]
        if reason == ENCODING:
            return f"{where}: not UTF-8 text"
        if reason not in (QUOTES, NUMBER, LABEL, TIME):
            return f"{where}: {found} columns, expected {len(columns)} ({', '.join(columns)})"
        name = columns[field] if field < len(columns) else str(field + 1)
        if reason == QUOTES:
            return (
                f"{where}, column {name}: a quoted field must end before a delimiter or line end; "
                "line ends within quotes are not supported"
            )
        shown = _field(line, field, self._schema.delimiter)
        expected = self._expected_field(reason)
        if reason == LABEL:
            expected += self._schema.label_advice(shown)
        if reason == LABEL and not shown:
            expected += "; labels are needed to train and to evaluate, not to predict"
        return f"{where}, column {name}: {shown!r} found, expected {expected}"

    def _expected_field(self, reason: int) -> str:
        if reason == TIME:
            return EXPECTED
        if reason == NUMBER:
            return "a number or nothing"
        return self._schema.expected_label


def _threshold(schema: Schema) -> float:
    """Return what tells the kernel which labels are right."""
    if schema.threshold is not None:
        return float(schema.threshold)
    if schema.relevance:
        return -np.inf
    return np.inf if schema.soft_labels else np.nan


def stage_values(
    text: NDArray[np.uint8],
    firsts: NDArray[Any],
    stops: NDArray[Any],
    column: CategoricalColumn,
    missing: Sequence[str] = (),
) -> list[NDArray[Any]]:
    """Return a category's columns for staging, of the fields from ``firsts`` to ``stops``.

    Texts that are ``missing`` become empty, or are left out of a multi-valued column.
    """
    ends = np.where(stops < 0, -1 - stops, stops)
    size = int((ends - firsts).sum())
    separator = ord(column.separator) if column.separator else -1
    most = size // 2 + len(firsts) + 1 if column.separator else len(firsts)
    counts = np.empty(len(firsts), np.int32)
    lengths, out = np.empty(most, np.int32), np.empty(size, np.uint8)
    values, size = extract_values(text, firsts, stops, separator, counts, lengths, out)
    lengths, out = lengths[:values], out[:size]
    if missing:
        return without_missing(counts, lengths, out, is_multi=column.is_multi, missing=missing)
    return [*([counts] if column.is_multi else []), lengths, out]


def without_missing(
    counts: NDArray[np.int32],
    lengths: NDArray[np.int32],
    text: NDArray[np.uint8],
    *,
    is_multi: bool,
    missing: Sequence[str],
) -> list[NDArray[Any]]:
    """Return columns for staging in which values that mean a missing value are missing."""
    values, size = drop_missing(text, lengths, counts, is_multi, *pack_texts(missing))
    return [*([counts] if is_multi else []), lengths[:values], text[:size]]


def pack_texts(texts: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the bytes of all texts, and the position after each."""
    raw = [text.encode() for text in texts]
    ends = np.cumsum([len(one) for one in raw], dtype=np.int64)
    return np.frombuffer(b"".join(raw), np.uint8), ends


def _key_texts(text: NDArray[np.uint8], firsts: NDArray[Any], stops: NDArray[Any]) -> list[str]:
    lengths, raw = stage_values(text, firsts, stops, CategoricalColumn("key"))
    return [value.decode() for value in texts_of(raw, np.cumsum(lengths, dtype=np.int64))]


def _column_names(path: Path, schema: Schema, wanted: Wanted) -> tuple[str, ...]:
    """Return the names of a file's columns, in order.

    Where labels are not wanted, a file without a header line may lack their column.
    """
    if not schema.columns:
        return _header(path, schema.delimiter)
    names = schema.columns
    if not wanted.labels and schema.label in names:
        found = len(_header(path, schema.delimiter))
        if found == len(names) - 1:
            return tuple(name for name in names if name != schema.label)
    return names


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
    try:
        return tuple(_split(text.removesuffix("\n").removesuffix("\r"), delimiter))
    except csv.Error as error:
        raise DataError(f"{path}, line 1: the columns' names cannot be read: {error}") from None


def _split(line: str, delimiter: str) -> list[str]:
    """Return the fields of a line. Raises csv.Error, such as for a carriage return in a field."""
    if line.endswith("\r"):
        raise csv.Error("a carriage return at the end of the last field")
    return next(csv.reader([line], delimiter=delimiter, strict=True), [])


def _kinds(
    columns: Sequence[str], schema: Schema, wanted: Wanted, path: Path
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return kind, key and time of each field of a line, numbered as the kernel expects."""
    check_columns(columns, schema, wanted, f"{path}, line 1")
    kinds = np.full(len(columns), IGNORED_FIELD, np.int64)
    keys = np.full(len(columns), -1, np.int64)
    times = np.zeros(len(columns), np.int64)
    codes = time_codes(schema)
    for kind, name in enumerate(schema.names, LABEL_FIELD):
        if name in columns and (wanted.labels or kind != LABEL_FIELD):
            kinds[columns.index(name)] = kind
            times[columns.index(name)] = codes[kind]
    for number, name in enumerate(wanted.keys, len(schema.categorical)):
        keys[columns.index(name)] = number
    return kinds, keys, times


def _field(line: bytes, field: int, delimiter: str) -> str:
    """Return one field of a line, shortened for a message."""
    text = line.decode("utf-8", "replace")
    try:
        fields = _split(text, delimiter)
    except csv.Error:
        fields = text.split(delimiter)
    shown = fields[field] if field < len(fields) else ""
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."
