"""Rows that are Python mappings, such as parsed JSON, as an input to score.

A value means what the same value means in CSV and Arrow; a type without a meaning is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from dlrmjit_kernels.data.csv import parse_numbers
from numpy.typing import NDArray

from dlrmjit.data.prepare.inputs.base import ParsedChunk, Wanted, columns_to_read
from dlrmjit.data.prepare.inputs.csv import pack_texts
from dlrmjit.data.prepare.layout import layout_of
from dlrmjit.data.schema import CategoricalColumn, Schema
from dlrmjit.errors import DataError

_ROWS = 1 << 14
_LARGEST = float(np.finfo(np.float32).max)
_MISSING_TYPES = ("NAType", "NaTType")  # of pandas, which need not be installed
Row = Mapping[str, Any]


class PythonRows:
    """Mappings with the columns that a schema names as keys, without labels."""

    def __init__(self, rows: Sequence[Row], schema: Schema, wanted: Wanted, origin: str) -> None:
        self.layout = layout_of(schema)
        self.expected = f"mappings with the keys {', '.join(columns_to_read(schema, wanted))}"
        self._rows, self._schema, self._wanted, self._origin = rows, schema, wanted, origin

    def sizes(self) -> list[int] | None:
        """Return the number of rows."""
        return [len(self._rows)]

    def chunks(self, file: int, offset: int, lines: int) -> Iterator[range]:
        """Yield ranges of rows from row ``offset`` on."""
        for start in range(offset, len(self._rows), _ROWS):
            yield range(start, min(start + _ROWS, len(self._rows)))

    def release(self, chunk: range) -> None:
        """Do nothing: the caller owns the rows."""

    def parse(self, chunk: range) -> ParsedChunk:
        """Return the columns of a range of rows. Raises DataError naming a row and a column."""
        schema, rows = self._schema, self._rows[chunk.start : chunk.stop]
        columns: list[NDArray[Any]] = [np.zeros(len(rows), np.uint8)]
        columns += [self._numbers(rows, column.name, chunk.start) for column in schema.dense]
        for category in schema.categorical:
            columns += self._category(rows, category, chunk.start)
        keys = [self._values(rows, name, chunk.start) for name in self._wanted.keys]
        return ParsedChunk(0, chunk.stop, len(rows), 0, lambda line: "", columns, keys)

    def _values(self, rows: Sequence[Row], name: str, first: int) -> list[Any]:
        try:
            return [row[name] for row in rows]
        except (KeyError, TypeError, IndexError):
            pass
        for number, row in enumerate(rows, first):
            if not isinstance(row, Mapping):
                raise DataError(
                    f"{self._origin}, row {number}: {type(row).__name__} found, expected a mapping "
                    "from column names to values"
                )
            if name not in row:
                raise DataError(
                    f"{self._origin}, row {number}: no value of {name!r}; a missing value is None"
                )
        raise AssertionError("the row was changed")

    def _numbers(self, rows: Sequence[Row], name: str, first: int) -> NDArray[np.float64]:
        values = self._values(rows, name, first)
        numbers = np.empty(len(values), np.float64)
        texts: list[int] = []
        for i, value in enumerate(values):
            if isinstance(value, str):
                numbers[i] = np.nan
                texts.append(i)
            elif isinstance(value, (int, float, np.number, np.bool_, Decimal)):
                numbers[i] = float(value)
            elif _is_missing(value):
                numbers[i] = np.nan
            else:
                raise self._wrong(value, name, first + i, "a number or None")
        if texts:
            self._parse_texts(values, texts, numbers, name, first)
        bad = np.flatnonzero(np.abs(numbers) > _LARGEST)
        if bad.size:
            raise self._wrong(values[bad[0]], name, first + int(bad[0]), "a finite number")
        return numbers

    def _parse_texts(
        self,
        values: list[Any],
        texts: list[int],
        numbers: NDArray[np.float64],
        name: str,
        first: int,
    ) -> None:
        """Fill in numbers that are written as text, read as those of CSV."""
        missing = set(self._schema.missing)
        shown = ["" if values[i].strip(" ") in missing else values[i] for i in texts]
        raw, ends = pack_texts(shown)
        parsed = np.empty(len(texts), np.float64)
        bad = parse_numbers(raw, np.diff(ends, prepend=0).astype(np.int32), parsed)
        if bad >= 0:
            i = texts[bad]
            raise self._wrong(values[i], name, first + i, "a number or nothing")
        numbers[texts] = parsed

    def _category(
        self, rows: Sequence[Row], column: CategoricalColumn, first: int
    ) -> list[NDArray[Any]]:
        """Return a category's columns for staging."""
        values = self._values(rows, column.name, first)
        missing = set(self._schema.missing_texts(column))
        bags = []
        for number, value in enumerate(values, first):
            try:
                bags.append(_texts_of(value, column))
            except _MeaningError as error:
                raise self._wrong(value, column.name, number, str(error)) from None
        if column.is_multi:
            bags = [[text for text in bag if text and text not in missing] for bag in bags]
        else:
            bags = [["" if text in missing else text for text in bag] for bag in bags]
        raw, ends = pack_texts([text for bag in bags for text in bag])
        lengths = np.diff(ends, prepend=0).astype(np.int32)
        counts = [np.array([len(bag) for bag in bags], np.int32)] if column.is_multi else []
        return [*counts, lengths, raw]

    def _wrong(self, value: Any, name: str, row: int, expected: str) -> DataError:
        return DataError(
            f"{self._origin}, row {row}, column {name}: {value!r} found "
            f"({type(value).__name__}), expected {expected}"
        )


class _MeaningError(Exception):
    """A value has no meaning in its column; the message says what has."""


def _texts_of(value: Any, column: CategoricalColumn) -> list[str]:
    if not column.is_multi:
        return [_text_of(value)]
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        return [_text_of(one) for one in value]
    if isinstance(value, str) and column.separator:
        return value.split(column.separator)
    if _is_missing(value):
        return []
    raise _MeaningError("a list" + (" or text" if column.separator else ""))


def _text_of(value: Any) -> str:
    """Return the text of a category; a whole number of any type is written without a point."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if _is_missing(value):
        return ""
    if isinstance(value, (float, np.floating)) and np.isfinite(value):
        return str(int(value)) if value == int(value) else repr(float(value))
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    raise _MeaningError("text, a whole number or None")


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in _MISSING_TYPES:
        return True
    return isinstance(value, (float, np.floating)) and bool(np.isnan(value))
