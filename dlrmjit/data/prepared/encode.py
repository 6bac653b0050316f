"""Further files, encoded with the vocabulary of a prepared set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from dlrmjit_kernels.data.strings import hash_texts
from dlrmjit_kernels.data.vocabulary import hash_values
from numpy.typing import NDArray

from dlrmjit.data.dataset import Dataset, MultiHot
from dlrmjit.data.dense_transform import transform_dense
from dlrmjit.data.formats.criteo_text import HASHES, read_criteo_text
from dlrmjit.data.prepare.files.vocabularies import find_hash_ids, find_text_ids
from dlrmjit.data.prepare.inputs.open import open_format
from dlrmjit.data.prepared.manifest import USER_DEFINED
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import Schema
from dlrmjit.errors import DataError


def read_with_vocabulary(path: Path, known: PreparedSet) -> Dataset:
    """Read a file in the format of the inputs of the set ``known``, encoded as in that set.

    A value that is not in the set's vocabulary gets id 0. Raises DataError for a file that cannot
    be read, or if every value of a column is unknown, because the set then has other data.
    """
    if known.manifest.origin.get("kind") == USER_DEFINED:
        return _read_with_schema(path, known)
    options = known.manifest.origin.get("options", {})
    limit = int(options.get("max_ind_range", 0))
    rows = read_criteo_text(path)
    ids = np.empty((len(rows), HASHES), np.int32)
    for column in range(HASHES):
        values = np.ascontiguousarray(rows.hashes[:, column])
        vocabulary = known.vocabulary(column)
        if vocabulary is None:
            hash_values(values, known.manifest.table_rows[column], ids[:, column])
            continue
        values = values % np.uint32(limit) if limit else values
        has_rare_row = known.manifest.categorical[column].has_rare_row
        found = find_hash_ids(vocabulary, values, has_rare_row=has_rare_row)
        _check_any_known(found, bool((values != 0).any()), path, known, column)
        ids[:, column] = np.maximum(found, 0)
    return Dataset(
        rows.labels,
        np.maximum(rows.integers, 0),
        ids,
        known.manifest.table_rows,
        log_transform=True,
        origin=str(path),
    )


def _read_with_schema(path: Path, known: PreparedSet) -> Dataset:
    """Read CSV or Parquet by the schema of the set."""
    origin = known.manifest.origin
    schema = Schema.from_dict(origin["options"]["schema"], str(known.folder))
    columns = _columns(path, schema)
    labels = next(columns)
    dense = np.empty((len(labels), len(schema.dense)), np.float32)
    for i, column in enumerate(schema.dense):
        dense[:, i] = transform_dense(column, next(columns), origin["moments"].get(column.name))
    ids, multi = [], []
    for j, category in enumerate(schema.categorical):
        counts = next(columns) if category.is_multi else None
        found = _encode_texts(next(columns), next(columns), path, known, j)
        if counts is None:
            ids.append(found)
        else:
            offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
            multi.append((j, MultiHot(found, offsets)))
    return Dataset(
        labels,
        dense,
        np.stack(ids, axis=1) if ids else np.empty((len(labels), 0), np.int32),
        known.manifest.table_rows,
        multi=tuple(multi),
        origin=str(path),
    )


def _columns(path: Path, schema: Schema) -> Iterator[NDArray[Any]]:
    """Return the columns of a whole file, as a preparation stages them."""
    try:
        source = open_format((path,), schema, skip_bad=False, buffers=1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    parts, lines = [], 0
    for chunk in source.chunks(0, 0, 0):
        parsed = source.parse(chunk)
        if parsed.skipped:
            raise DataError(parsed.explain(lines + 1))
        parts.append(parsed.columns)
        lines += parsed.lines
        source.release(chunk)
    if not any(len(part[0]) for part in parts):
        raise DataError(f"{path} has no valid line; expected {source.expected}")
    return (np.concatenate(column) for column in zip(*parts, strict=True))


def _encode_texts(
    lengths: NDArray[np.int32],
    text: NDArray[np.uint8],
    path: Path,
    known: PreparedSet,
    column: int,
) -> NDArray[np.int32]:
    facts = known.manifest.categorical[column]
    vocabulary = known.text_vocabulary(column)
    if vocabulary is None:
        found = np.empty(len(lengths), np.int32)
        hash_texts(text, lengths, facts.rows, found)
        return found
    found = find_text_ids(vocabulary, text, lengths, has_rare_row=facts.has_rare_row)
    _check_any_known(found, len(text) > 0, path, known, column)
    return np.maximum(found, 0)


def _check_any_known(
    found: NDArray[np.int32], has_values: bool, path: Path, known: PreparedSet, column: int
) -> None:
    if has_values and len(found) > 1 and (found < 0).all():
        facts = known.manifest.categorical[column]
        if facts.has_rare_row and facts.rows == 1:  # all of them were rare
            return
        raise DataError(
            f"{path}, column {facts.name}: no value is in the vocabulary of {known.folder}; use "
            "the set that was prepared from these data"
        )
