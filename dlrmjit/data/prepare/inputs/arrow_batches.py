"""Batches of Arrow rows into columns; Parquet files and tables in memory are read through this."""

from __future__ import annotations

from typing import Any

import numpy as np
from dlrmjit_kernels.data.csv import parse_numbers
from numpy.typing import NDArray

from dlrmjit.data.formats.arrow import require_arrow
from dlrmjit.data.prepare.inputs.base import (
    FEATURES_AND_LABELS,
    ParsedChunk,
    Wanted,
    check_columns,
    columns_to_read,
)
from dlrmjit.data.prepare.inputs.csv import stage_values, without_missing
from dlrmjit.data.schema import CategoricalColumn, Schema
from dlrmjit.errors import DataError

LARGEST = float(np.finfo(np.float32).max)


class ArrowReader:
    """Reads the columns that a schema names from batches of Arrow rows.

    Raises ConfigError without pyarrow, whose message ends in ``instead``.
    """

    def __init__(self, schema: Schema, instead: str, wanted: Wanted = FEATURES_AND_LABELS) -> None:
        self.arrow, self.parquet = require_arrow(instead)
        self.columns = columns_to_read(schema, wanted)
        self._schema, self._wanted = schema, wanted

    def check(self, found: Any, origin: str) -> None:
        """Raise DataError if an Arrow schema lacks a column, or has one of another kind."""
        check_columns(found.names, self._schema, self._wanted, origin)
        for column in self._schema.categorical:
            _check_kind(self.arrow, found.field(column.name), column, origin)

    def parse(self, batch: Any, origin: str, file: int, after: int) -> ParsedChunk:
        """Return the columns of a batch of rows."""
        schema, n = self._schema, batch.num_rows
        labels, bad_label = self._labels(batch, origin)
        dense = np.empty((len(schema.dense), n), np.float64)
        bad = np.zeros((n, 1 + len(schema.dense)), np.bool_)
        bad[:, 0] = bad_label
        for i, column in enumerate(schema.dense):
            dense[i] = self._numbers(batch, column.name, origin)
            bad[:, 1 + i] = np.abs(dense[i]) > LARGEST
        good = ~bad.any(axis=1)
        chosen = batch if good.all() else batch.filter(self.arrow.array(good))
        columns: list[NDArray[Any]] = [
            labels[good],
            *(np.ascontiguousarray(d[good]) for d in dense),
        ]
        for category in schema.categorical:
            columns += self._category(chosen.column(category.name), category)
        keys = [chosen.column(name) for name in self._wanted.keys]

        def explain(first_row: int) -> str:
            row, column = (int(i) for i in np.argwhere(bad)[0])
            name = schema.names[column]
            found = batch.column(name)[row].as_py()
            return f"{origin}, row {first_row + row}, column {name}: {found!r} found, " + (
                "expected a finite number"
                if column or schema.threshold is not None
                else "expected 0 or 1"
            )

        return ParsedChunk(file, after, n, int(n - good.sum()), explain, columns, keys)

    def _labels(self, batch: Any, origin: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return labels, and a mask of invalid ones."""
        if not self._wanted.labels:
            n = batch.num_rows
            return np.zeros(n, np.uint8), np.zeros(n, np.bool_)
        values = self._numbers(batch, self._schema.label, origin)
        threshold = self._schema.threshold
        if threshold is not None:
            return (values > threshold).astype(np.uint8), ~np.isfinite(values)
        return (values == 1).astype(np.uint8), (values != 0) & (values != 1)

    def _numbers(self, batch: Any, name: str, origin: str) -> NDArray[np.float64]:
        """Return a column as float64, NaN where it is null. Raises DataError for other types."""
        column = batch.column(name)
        if self.arrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if self.arrow.types.is_string(column.type) or self.arrow.types.is_large_string(column.type):
            return self._numbers_in_text(column, name, origin)
        try:
            numbers = column.cast(self.arrow.float64())
        except self.arrow.ArrowException as error:
            raise DataError(
                f"{origin}, column {name}: {first_line(error)}; expected numbers"
            ) from None
        return np.asarray(numbers.to_numpy(zero_copy_only=False), np.float64)

    def _numbers_in_text(self, column: Any, name: str, origin: str) -> NDArray[np.float64]:
        """Return numbers that are stored as text, read as those of CSV."""
        missing = CategoricalColumn(name, missing=self._schema.missing)
        lengths, text = self._texts(column, missing)
        numbers = np.empty(len(lengths), np.float64)
        bad = parse_numbers(text, lengths, numbers)
        if bad >= 0:
            raise DataError(
                f"{origin}, column {name}: {column[bad].as_py()!r} found, expected a number or "
                "nothing"
            )
        return numbers

    def _category(self, array: Any, column: CategoricalColumn) -> list[NDArray[Any]]:
        """Return a category's columns for staging."""
        if column.separator or not column.multi:
            return self._texts(array, column)
        arrow = self.arrow
        lists = array.cast(arrow.large_list(array.type.value_type))
        values = lists.flatten()
        sizes = arrow.compute.list_value_length(lists).fill_null(0)
        counts = sizes.to_numpy(zero_copy_only=False).astype(np.int32)
        lengths, text = self._texts(values, CategoricalColumn(column.name, missing=()))
        missing = self._schema.missing_texts(column)
        return without_missing(counts, lengths, text, is_multi=True, missing=missing)

    def _texts(self, array: Any, column: CategoricalColumn) -> list[NDArray[Any]]:
        """Return values as text, null as empty, through the code that reads CSV."""
        if self.arrow.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        text = array.cast(self.arrow.large_string()).fill_null("")
        _, offsets, data = text.buffers()
        positions = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
        raw = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
        missing = self._schema.missing_texts(column)
        return stage_values(raw, positions[:-1], positions[1:], column, missing)


def _check_kind(arrow: Any, field: Any, column: CategoricalColumn, origin: str) -> None:
    """Raise DataError for lists in a single-valued column, or none in a multi-valued one."""
    is_list = arrow.types.is_list(field.type) or arrow.types.is_large_list(field.type)
    if is_list and not column.multi:
        raise DataError(
            f"{origin}: column {column.name} holds lists; set multi = true for it in the schema"
        )
    if not is_list and column.is_multi and not column.separator:
        raise DataError(
            f"{origin}: column {column.name} holds {field.type}, not lists; multi needs lists, so "
            "give a separator instead"
        )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
