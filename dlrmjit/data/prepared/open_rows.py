"""Raw rows of any kind, encoded for a model: a path, a table in memory, or a list of mappings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlrmjit.data.prepare.inputs.base import InputFormat, Wanted
from dlrmjit.data.prepare.inputs.python_rows import PythonRows
from dlrmjit.data.prepare.inputs.tables import TableFormat, is_table
from dlrmjit.data.prepared.encode import EncodedRows, encode_rows, read_rows
from dlrmjit.data.prepared.preprocessing import Preprocessing
from dlrmjit.data.prepared.unknown import UnknownValues
from dlrmjit.errors import ConfigError, DataError

_ORIGIN = "the rows"


def encode_any(
    rows: Any,
    rules: Preprocessing,
    wanted: Wanted,
    *,
    unknown: UnknownValues | None = None,
) -> Iterator[EncodedRows]:
    """Yield ``rows`` in order, encoded, in chunks of bounded memory.

    ``rows`` is a path to text or Parquet, a pandas or polars DataFrame, an Arrow table, or a
    sequence of mappings. Raises ConfigError for anything else, DataError for bad rows.
    """
    if isinstance(rows, (str, os.PathLike)):
        if "\0" in str(rows):
            raise DataError(f"{str(rows)!r} is no path: it has a NUL character")
        return read_rows(Path(rows), rules, wanted, unknown=unknown)
    source = _source_of(rows, rules, wanted)
    if len(rows) == 0:
        return iter(())
    return encode_rows(source, rules, wanted, _ORIGIN, unknown)


def _source_of(rows: Any, rules: Preprocessing, wanted: Wanted) -> InputFormat:
    if rules.schema is None:
        raise ConfigError(
            "the model was trained on Criteo text, which has no column names; give the path of "
            "such a file"
        )
    if is_table(rows):
        return TableFormat(rows, rules.schema.as_read, wanted, _ORIGIN)
    if isinstance(rows, Mapping) or not isinstance(rows, Sequence):
        raise ConfigError(
            f"{type(rows).__name__} found where rows are expected: give a path, a DataFrame, an "
            "Arrow table or a list of mappings"
        )
    return PythonRows(rows, rules.schema.as_read, wanted, _ORIGIN)


def unknown_values(preprocessing: Preprocessing, rows: Any) -> dict[str, int]:
    """Return how many values of each column of raw rows are not in its vocabulary.

    ``rows`` and errors are those of :meth:`dlrmjit.DLRM.predict`.
    """
    unknown = UnknownValues(preprocessing)
    for _ in encode_any(rows, preprocessing, Wanted(labels=False), unknown=unknown):
        pass
    return unknown.by_column()
