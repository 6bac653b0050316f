"""Parquet files with any columns as an input of a preparation, read in batches of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.formats.arrow import require_arrow
from dlrmjit.data.prepare.inputs.base import ParsedChunk
from dlrmjit.data.prepare.inputs.csv import stage_values
from dlrmjit.data.prepare.layout import layout_of
from dlrmjit.data.schema import CategoricalColumn, Schema
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

    def __init__(self, paths: tuple[Path, ...], schema: Schema, skip_bad: bool) -> None:
        self.layout = layout_of(schema)
        self.expected = f"rows of columns {', '.join(schema.names)}"
        self._arrow, self._parquet = require_arrow("write the data as CSV")
        self._paths, self._schema, self._skip_bad = paths, schema, skip_bad
        self._rows = [self._check(path) for path in paths]

    def _check(self, path: Path) -> int:
        """Return the number of rows of a file; raise DataError if it lacks a column."""
        with self._open(path) as file:
            names = file.schema_arrow.names
            for name in self._schema.names:
                if names.count(name) != 1:
                    raise DataError(
                        f"{path}: {names.count(name) or 'no'} columns called {name!r} among "
                        f"{', '.join(names)}; the schema needs exactly one"
                    )
            for column in self._schema.categorical:
                _check_kind(self._arrow, file.schema_arrow.field(column.name), column, path)
            return int(file.metadata.num_rows)

    def _open(self, path: Path) -> Any:
        try:
            return self._parquet.ParquetFile(path, memory_map=False, pre_buffer=False)
        except (OSError, self._arrow.ArrowException) as error:
            raise DataError(
                f"{path} is not a complete Parquet file: {_first_line(error)}"
            ) from None

    def sizes(self) -> list[int] | None:
        """Return the rows of each file."""
        return self._rows

    def chunks(self, file: int, offset: int, lines: int) -> Iterator[_Rows]:
        """Yield batches from row ``offset`` of input ``file`` on."""
        for number in range(file, len(self._paths)):
            path = self._paths[number]
            try:
                yield from self._chunks_of(number, offset if number == file else 0)
            except (OSError, self._arrow.ArrowException) as error:
                raise DataError(f"{path} cannot be read: {_first_line(error)}") from None

    def _chunks_of(self, number: int, offset: int) -> Iterator[_Rows]:
        """Yield batches of one file; row groups that end before ``offset`` are not read."""
        with self._open(self._paths[number]) as file:
            end = 0
            for group in range(file.num_row_groups):
                start, end = end, end + file.metadata.row_group(group).num_rows
                if end <= offset:
                    continue
                columns = list(self._schema.names)
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
        schema, n = self._schema, chunk.batch.num_rows
        labels, bad_label = self._labels(chunk)
        dense = np.empty((len(schema.dense), n), np.float32)
        bad = np.zeros((n, 1 + len(schema.dense)), np.bool_)
        bad[:, 0] = bad_label
        for i, column in enumerate(schema.dense):
            dense[i] = self._numbers(chunk, column.name)
            bad[:, 1 + i] = np.isinf(dense[i])
        good = ~bad.any(axis=1)
        batch = chunk.batch if good.all() else chunk.batch.filter(self._arrow.array(good))
        columns: list[NDArray[Any]] = [
            labels[good],
            *(np.ascontiguousarray(d[good]) for d in dense),
        ]
        for category in schema.categorical:
            columns += _category(self._arrow, batch.column(category.name), category)

        def explain(first_row: int) -> str:
            row, column = (int(i) for i in np.argwhere(bad)[0])
            name = schema.names[column]
            found = chunk.batch.column(name)[row].as_py()
            threshold = schema.threshold
            wanted = "a finite number" if column or threshold is not None else "0 or 1"
            return (
                f"{self._paths[chunk.file]}, row {first_row + row}, column {name}: {found!r} "
                f"found, expected {wanted}"
            )

        return ParsedChunk(chunk.file, chunk.after, n, int(n - good.sum()), explain, columns)

    def _labels(self, chunk: _Rows) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return labels, and a mask of invalid ones."""
        values = self._numbers(chunk, self._schema.label)
        threshold = self._schema.threshold
        if threshold is not None:
            return (values > threshold).astype(np.uint8), ~np.isfinite(values)
        return (values == 1).astype(np.uint8), (values != 0) & (values != 1)

    def _numbers(self, chunk: _Rows, name: str) -> NDArray[np.float32]:
        """Return a column as float32, NaN where it is null. Raises DataError for other types."""
        try:
            column = chunk.batch.column(name).cast(self._arrow.float64())
        except self._arrow.ArrowException as error:
            raise DataError(
                f"{self._paths[chunk.file]}, column {name}: {_first_line(error)}; expected numbers"
            ) from None
        values = column.to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            return np.asarray(values, np.float32)


def _check_kind(arrow: Any, field: Any, column: CategoricalColumn, path: Path) -> None:
    """Raise DataError for lists in a single-valued column, or none in a multi-valued one."""
    is_list = arrow.types.is_list(field.type) or arrow.types.is_large_list(field.type)
    if is_list and not column.multi:
        raise DataError(
            f"{path}: column {column.name} holds lists; set multi = true for it in the schema"
        )
    if not is_list and column.is_multi and not column.separator:
        raise DataError(
            f"{path}: column {column.name} holds {field.type}, not lists; multi needs lists, so "
            "give a separator instead"
        )


def _category(arrow: Any, array: Any, column: CategoricalColumn) -> list[NDArray[Any]]:
    """Return a category's columns for staging."""
    if column.separator or not column.multi:
        return _texts(arrow, array, column)
    lists = array.cast(arrow.large_list(array.type.value_type))
    values = lists.flatten()
    sizes = arrow.compute.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    missing = values.is_null().to_numpy(zero_copy_only=False)
    counts = sizes.astype(np.int32)
    if missing.any():
        row = np.repeat(np.arange(len(counts)), counts)
        counts = np.bincount(row[~missing], minlength=len(counts)).astype(np.int32)
        values = values.drop_null()
    single = CategoricalColumn(column.name)
    return [counts, *_texts(arrow, values, single)]


def _texts(arrow: Any, array: Any, column: CategoricalColumn) -> list[NDArray[Any]]:
    """Return values as text, null as empty, through the code that reads CSV."""
    if arrow.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    text = array.cast(arrow.large_string()).fill_null("")
    _, offsets, data = text.buffers()
    positions = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
    raw = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return stage_values(raw, positions[:-1], positions[1:], column)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
