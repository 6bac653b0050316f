"""Rows that are Python mappings, such as parsed JSON, as an input to score.

A value means what the same value means in CSV and Arrow; a type without a meaning is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from dlrmjit_kernels.data.csv import parse_numbers
from numpy.typing import NDArray

from dlrmjit.data.prepare.inputs.base import ParsedChunk, Wanted, columns_to_read
from dlrmjit.data.prepare.inputs.csv import pack_texts
from dlrmjit.data.prepare.inputs.labels import labels_of
from dlrmjit.data.prepare.inputs.python_values import MeaningError, is_missing, texts_of_value
from dlrmjit.data.prepare.inputs.times import EXPECTED, Times, is_time
from dlrmjit.data.prepare.layout import layout_of
from dlrmjit.data.schema import CategoricalColumn, Schema
from dlrmjit.errors import DataError

_ROWS = 1 << 14
_SHOWN = 80  # characters of a value in a message
_LARGEST = float(np.finfo(np.float32).max)
_NUMBERS = (int, float, np.integer, np.floating, np.bool_, Decimal)  # not complex ones
Row = Mapping[str, Any]


class PythonRows:
    """Mappings with the columns that a schema names as keys."""

    def __init__(self, rows: Sequence[Row], schema: Schema, wanted: Wanted, origin: str) -> None:
        self.layout = layout_of(schema)
        self.expected = f"mappings with the keys {', '.join(columns_to_read(schema, wanted))}"
        self._rows, self._schema, self._wanted, self._origin = rows, schema, wanted, origin
        self._missing = pack_texts(schema.missing)

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
        columns: list[NDArray[Any]] = [self._labels(rows, chunk.start)]
        for dense in schema.dense:
            if dense.time:
                columns.append(self._times(rows, dense.name, chunk.start).numbers(dense.time))
            else:
                columns.append(self._numbers(rows, dense.name, chunk.start))
        for category in schema.categorical:
            if category.time:
                times = self._times(rows, category.name, chunk.start)
                columns += times.categories(category.time)
            else:
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
                    f"{self._origin}, row {number}: no value of {name!r}; a missing value is None, "
                    "in JSON null"
                )
        raise AssertionError("the row was changed")

    def _labels(self, rows: Sequence[Row], first: int) -> NDArray[Any]:
        """Return labels, 0 if they are not wanted."""
        schema = self._schema
        if not self._wanted.labels:
            return np.zeros(len(rows), np.uint8)
        numbers = self._numbers(rows, schema.label, first)
        labels, bad = labels_of(numbers, schema)
        if bad.any():
            row = int(np.argmax(bad))
            raise self._wrong(
                rows[row][schema.label], schema.label, first + row, schema.expected_label
            )
        return labels

    def _numbers(self, rows: Sequence[Row], name: str, first: int) -> NDArray[np.float64]:
        values = self._values(rows, name, first)
        numbers = np.empty(len(values), np.float64)
        texts: list[int] = []
        for i, value in enumerate(values):
            if isinstance(value, str):
                numbers[i] = np.nan
                texts.append(i)
            elif is_missing(value):
                numbers[i] = np.nan
            elif isinstance(value, _NUMBERS) and not isinstance(value, np.timedelta64):
                numbers[i] = _as_float(value)
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
        parsed = np.empty(len(texts), np.float64)
        bad = parse_numbers(*_packed([values[i] for i in texts]), *self._missing, parsed)
        if bad >= 0:
            i = texts[bad]
            raise self._wrong(values[i], name, first + i, "a number or nothing")
        numbers[texts] = parsed

    def _times(self, rows: Sequence[Row], name: str, first: int) -> Times:
        """Return a column of dates and times, or of text of them."""
        values = self._values(rows, name, first)
        objects = [None if isinstance(v, str) or is_missing(v) else v for v in values]
        for row, value in enumerate(objects, first):
            if value is not None and not is_time(value):
                raise self._wrong(value, name, row, EXPECTED)
        times = Times.of_objects(objects)
        texts = [i for i, value in enumerate(values) if isinstance(value, str)]
        read = Times.of_texts(*_packed([values[i] for i in texts]), self._missing)
        for all_rows, found in zip(times, read, strict=True):
            all_rows[texts] = found
        wrong = np.flatnonzero(times.wrong)
        if wrong.size:
            raise self._wrong(values[wrong[0]], name, first + int(wrong[0]), EXPECTED)
        return times

    def _category(
        self, rows: Sequence[Row], column: CategoricalColumn, first: int
    ) -> list[NDArray[Any]]:
        """Return a category's columns for staging."""
        values = self._values(rows, column.name, first)
        missing = {text.encode() for text in self._schema.missing_texts(column)}
        bags = []
        for number, value in enumerate(values, first):
            try:
                bags.append(texts_of_value(value, column))
            except MeaningError as error:
                raise self._wrong(value, column.name, number, str(error)) from None
        if column.is_multi:
            bags = [[text for text in bag if text and text not in missing] for bag in bags]
        else:
            bags = [[b"" if text in missing else text for text in bag] for bag in bags]
        texts = [text for bag in bags for text in bag]
        lengths = np.array([len(text) for text in texts], np.int32)
        raw = np.frombuffer(b"".join(texts), np.uint8)
        counts = [np.array([len(bag) for bag in bags], np.int32)] if column.is_multi else []
        return [*counts, lengths, raw]

    def _wrong(self, value: Any, name: str, row: int, expected: str) -> DataError:
        return DataError(
            f"{self._origin}, row {row}, column {name}: {_shown(value)} found "
            f"({type(value).__name__}), expected {expected}"
        )


def _shown(value: Any) -> str:
    """Return a value for a message, shortened."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of so many digits
        return "a long number"
    except NotImplementedError:  # pandas writes no time with a zone beyond Python's years
        return "a time of no calendar"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _as_float(value: Any) -> float:
    """Return a number as float64, infinite beyond its range."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _packed(texts: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Return the bytes of all texts, also of those that are not Unicode, and their lengths."""
    raw = [text.encode(errors="surrogatepass") for text in texts]
    lengths = np.array([len(one) for one in raw], np.int32)
    return np.frombuffer(b"".join(raw), np.uint8), lengths
