"""Batches of Arrow rows into columns; Parquet files and tables in memory are read through this."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from dlrmjit_kernels.data.csv import BEYOND_FLOAT32, parse_numbers
from numpy.typing import NDArray

from dlrmjit.data.formats.arrow import require_arrow
from dlrmjit.data.prepare.inputs.arrow_values import ArrowValues
from dlrmjit.data.prepare.inputs.base import (
    FEATURES_AND_LABELS,
    ParsedChunk,
    Wanted,
    check_columns,
    columns_to_read,
)
from dlrmjit.data.prepare.inputs.csv import pack_texts, stage_values, without_missing
from dlrmjit.data.prepare.inputs.labels import labels_of
from dlrmjit.data.prepare.inputs.times import EXPECTED, Times, time_columns
from dlrmjit.data.schema import CategoricalColumn, Schema
from dlrmjit.errors import DataError

_VERBATIM = CategoricalColumn("values", missing=())  # no text of which is missing


class ArrowReader:
    """Reads the columns that a schema names from batches of Arrow rows.

    Raises ConfigError without pyarrow, whose message ends in ``instead``.
    """

    def __init__(self, schema: Schema, instead: str, wanted: Wanted = FEATURES_AND_LABELS) -> None:
        self.arrow, self.parquet = require_arrow(instead)
        self._values = ArrowValues(self.arrow)
        self.columns = columns_to_read(schema, wanted)
        self._schema, self._wanted = schema, wanted
        self._names = tuple(dict.fromkeys((*schema.names, *wanted.keys)))
        self._missing = pack_texts(schema.missing)

    def check(self, found: Any, origin: str) -> None:
        """Raise DataError if an Arrow schema lacks a column, or has one of another kind."""
        check_columns(found.names, self._schema, self._wanted, origin)
        label = (self._schema.label,) if self._wanted.labels else ()
        for name in label:
            self._values.check_number(found.field(name), origin)
        for dense in self._schema.dense:
            check = self._values.check_time if dense.time else self._values.check_number
            check(found.field(dense.name), origin)
        for column in self._schema.categorical:
            if column.time:
                self._values.check_time(found.field(column.name), origin)
            else:
                self._values.check_category(found.field(column.name), column, origin)

    def parse(self, batch: Any, origin: str, file: int, after: int) -> ParsedChunk:
        """Return the columns of a batch of rows."""
        schema = self._schema
        labels, bad_labels = self._labels(batch, origin)
        times = {name: self._times(batch, name, origin) for name in time_columns(schema)}
        dense = self._dense(batch, times, origin)
        texts = self._wrong_texts(batch, origin)
        bad = self._bad(bad_labels, dense, times, texts)
        good = ~bad.any(axis=1)
        chosen = batch if good.all() else self._filtered(batch, np.asarray(good), origin)
        columns: list[NDArray[Any]] = [
            labels[good],
            *(np.ascontiguousarray(d[good]) for d in dense),
        ]
        for category in schema.categorical:
            if category.time:
                of_good = Times(*(part[good] for part in times[category.name]))
                columns += of_good.categories(category.time)
            else:
                columns += self._category(chosen.column(category.name), category, origin)
        keys = [chosen.column(name) for name in self._wanted.keys]

        def explain(first_row: int) -> str:
            row, column = (int(i) for i in np.argwhere(bad)[0])
            name = self._names[column]
            where = f"{origin}, row {first_row + row}, column {name}"
            if name in texts and texts[name][row]:
                return f"{where}: text that is not UTF-8; store other bytes as binary values"
            found = _shown(batch.column(name)[row])
            if name in times:
                return f"{where}: {found} found, expected {EXPECTED}"
            if column:
                return f"{where}: {found} found, expected a finite number"
            advice = schema.label_advice(found)
            return f"{where}: {found} found, expected {schema.expected_label}{advice}"

        return ParsedChunk(
            file, after, batch.num_rows, int(bad.any(axis=1).sum()), explain, columns, keys
        )

    def _dense(
        self, batch: Any, times: Mapping[str, Times], origin: str
    ) -> list[NDArray[np.float64]]:
        """Return the dense columns, NaN where a value is missing, infinite where it is wrong."""
        return [
            times[column.name].numbers(column.time)
            if column.time
            else self._numbers(batch, column.name, origin)
            for column in self._schema.dense
        ]

    def _bad(
        self,
        labels: NDArray[np.bool_],
        dense: Sequence[NDArray[np.float64]],
        times: Mapping[str, Times],
        texts: Mapping[str, NDArray[np.bool_]],
    ) -> NDArray[np.bool_]:
        """Return which values of each row are wrong, by ``_names``."""
        names = self._names
        bad = np.zeros((len(labels), len(names)), np.bool_)
        bad[:, 0] = labels
        for i, values in enumerate(dense, 1):
            bad[:, i] = np.abs(values) >= BEYOND_FLOAT32
        for name, found in times.items():
            bad[:, names.index(name)] = found.wrong
        for name, wrong in texts.items():
            bad[:, names.index(name)] |= wrong
        return bad

    def _wrong_texts(self, batch: Any, origin: str) -> dict[str, NDArray[np.bool_]]:
        """Return which rows of each column have text that is not UTF-8, as no line of CSV may."""
        wrong = {}
        for name in self.columns:
            with self._reading(origin, name):
                wrong[name] = self._values.not_utf8(batch.column(name))
        return wrong

    def _filtered(self, batch: Any, good: NDArray[Any], origin: str) -> Any:
        """Return the good rows of a batch."""
        arrow = self.arrow
        try:
            columns = [self._values.without_views(column) for column in batch.columns]
            plain = arrow.RecordBatch.from_arrays(columns, names=batch.schema.names)
            return plain.filter(arrow.array(good))
        except arrow.ArrowException as error:
            raise DataError(
                f"{origin}: bad rows cannot be left out of these types: {first_line(error)}"
            ) from None

    def _labels(self, batch: Any, origin: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return labels, and a mask of invalid ones."""
        if not self._wanted.labels:
            n = batch.num_rows
            return np.zeros(n, np.uint8), np.zeros(n, np.bool_)
        return labels_of(self._numbers(batch, self._schema.label, origin), self._schema)

    def _numbers(self, batch: Any, name: str, origin: str) -> NDArray[np.float64]:
        """Return a column as float64, NaN where it is null, infinite where it is no number."""
        column = batch.column(name)
        with self._reading(origin, name):
            if not self._values.is_text(column.type):
                return self._values.numbers(column)
            lengths, text = self._staged(self._values.texts(column), _VERBATIM)
        numbers = np.empty(len(lengths), np.float64)
        parse_numbers(text, lengths, *self._missing, numbers)
        return numbers

    def _times(self, batch: Any, name: str, origin: str) -> Times:
        """Return a column of dates and times."""
        column = batch.column(name)
        with self._reading(origin, name):
            if not self._values.is_text(column.type):
                return self._values.times(column)
            lengths, text = self._staged(self._values.texts(column), _VERBATIM)
        return Times.of_texts(text, lengths, self._missing)

    def _category(self, array: Any, column: CategoricalColumn, origin: str) -> list[NDArray[Any]]:
        """Return a category's columns for staging."""
        with self._reading(origin, column.name):
            if not self._values.is_list(array.type):
                return self._staged(self._values.texts(array), column)
            counts, values = self._values.lists(array)
            texts = self._values.texts(values)
        lengths, text = self._staged(texts, _VERBATIM)
        missing = self._schema.missing_texts(column)
        return without_missing(counts, lengths, text, is_multi=True, missing=missing)

    def _staged(self, texts: Any, column: CategoricalColumn) -> list[NDArray[Any]]:
        """Return texts, null as empty, through the code that reads CSV."""
        texts = texts.fill_null(b"")
        _, offsets, data = texts.buffers()
        positions = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        raw = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
        missing = self._schema.missing_texts(column)
        return stage_values(raw, positions[:-1], positions[1:], column, missing)

    @contextmanager
    def _reading(self, origin: str, name: str) -> Iterator[None]:
        """Convert errors in the values of a column into a DataError that names it."""
        try:
            yield
        except self.arrow.ArrowException as error:
            raise DataError(f"{origin}, column {name}: {first_line(error)}") from None
        except DataError as error:
            raise DataError(f"{origin}, column {name}: {error}") from None


def _shown(value: Any) -> str:
    """Return an Arrow value for a message."""
    try:
        return repr(value.as_py())
    except (ValueError, OverflowError):  # a time that Python has no type for
        return f"a {value.type} without a date"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
