"""Raw rows into the dense values and ids that a model was trained on, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from dlrmjit_kernels.data.strings import hash_keys
from dlrmjit_kernels.data.vocabulary import hash_values
from numpy.typing import NDArray

from dlrmjit.config.model import Bounds
from dlrmjit.data.dataset import Dataset, MultiHot, concatenate
from dlrmjit.data.dense_transform import CATEGORICAL, bin_rows, transform_columns
from dlrmjit.data.formats.criteo_text import HASHES, INTEGERS
from dlrmjit.data.prepare.files.vocabularies import hash_to_rows
from dlrmjit.data.prepare.inputs.base import FEATURES_AND_LABELS, InputFormat, ParsedChunk, Wanted
from dlrmjit.data.prepare.inputs.open import open_format
from dlrmjit.data.prepare.ordered_map import ordered_map
from dlrmjit.data.prepared.preprocessing import Preprocessing
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.prepared.unknown import UnknownValues
from dlrmjit.errors import DataError

_AHEAD = 1
Report = Callable[[int, int, int], None]
"""Called with the positions read, their total (0: unknown), and the rows so far."""


@dataclass(frozen=True)
class EncodedRows:
    """Rows as a model reads them, and the values of their key columns.

    Without labels, those of ``rows`` are NaN. A key column is a list of text or values, or an
    Arrow array.
    """

    rows: Dataset
    keys: list[Any]

    def __len__(self) -> int:
        return len(self.rows)

    def cut(self, start: int, end: int) -> EncodedRows:
        """Return rows ``start`` to ``end``."""
        return EncodedRows(self.rows.cut(start, end), [key[start:end] for key in self.keys])


def read_with_vocabulary(path: Path, known: PreparedSet) -> Dataset:
    """Read a labelled file in the format of the inputs of the set ``known``, encoded as in it.

    A value that is not in the set's vocabulary gets id 0. Raises DataError for a file that cannot
    be read, and for a set that was not made of text or Parquet.
    """
    rules = Preprocessing.of_set(known.folder, known.manifest)
    if rules is None:
        raise DataError(f"{known.folder} was not made of text or Parquet and has no vocabulary")
    parts = [chunk.rows for chunk in read_rows(path, rules)]
    return parts[0] if len(parts) == 1 else concatenate(parts)


def read_rows(
    path: Path,
    rules: Preprocessing,
    wanted: Wanted = FEATURES_AND_LABELS,
    *,
    unknown: UnknownValues | None = None,
    workers: int = 1,
    report: Report | None = None,
) -> Iterator[EncodedRows]:
    """Yield the rows of a file in order, in chunks of bounded memory.

    ``unknown`` counts values that are not in the vocabularies. Raises DataError naming file and
    line for bad input, and for a file without rows.
    """
    try:
        schema = None if rules.schema is None else rules.schema.as_read
        source = open_format((path,), schema, False, workers + _AHEAD + 1, wanted)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    yield from encode_rows(source, rules, wanted, str(path), unknown, workers, report)


def encode_rows(
    source: InputFormat,
    rules: Preprocessing,
    wanted: Wanted,
    origin: str,
    unknown: UnknownValues | None = None,
    workers: int = 1,
    report: Report | None = None,
) -> Iterator[EncodedRows]:
    """Yield the rows of ``source`` in order; see :func:`read_rows`."""
    encoder = _Encoder(rules, wanted, origin)
    counts = UnknownValues(rules) if unknown is None else unknown
    total = sum(source.sizes() or [])

    def work(chunk: Any) -> tuple[Any, ParsedChunk, EncodedRows, UnknownValues]:
        parsed, found = source.parse(chunk), UnknownValues(rules)
        return chunk, parsed, encoder.encode(parsed, found), found

    file = lines = rows = 0
    for chunk, parsed, encoded, found in ordered_map(work, source.chunks(0, 0, 0), workers, _AHEAD):
        if parsed.file > file:
            file, lines = parsed.file, 0
        if parsed.skipped:
            raise DataError(parsed.explain(lines + 1))
        source.release(chunk)
        counts.add(found)
        lines, rows = lines + parsed.lines, rows + len(encoded)
        if report is not None:
            report(parsed.after, total, rows)
        if len(encoded):
            yield encoded
    if not rows:
        raise DataError(f"{origin} has no valid line; expected {source.expected}")


class _Encoder:
    """Encodes the columns of parsed chunks; several threads may call ``encode``."""

    def __init__(self, rules: Preprocessing, wanted: Wanted, origin: str) -> None:
        self._rules, self._wanted, self._origin = rules, wanted, origin
        # made now, because threads would make them twice
        self._indexes: Any = rules.hash_indexes if rules.schema is None else rules.text_indexes

    def encode(self, parsed: ParsedChunk, unknown: UnknownValues) -> EncodedRows:
        columns = iter(parsed.columns)
        labels = next(columns).copy()  # the chunk is released before its rows are used
        if not self._wanted.labels:
            labels = np.full(len(labels), np.nan, np.float32)
        if self._rules.schema is None:
            rows = self._criteo(labels, columns, unknown)
        else:
            rows = self._with_schema(labels, columns, unknown)
        return EncodedRows(rows.limited(self._rules.id_limit), parsed.keys)

    def _criteo(
        self, labels: NDArray[Any], columns: Iterator[NDArray[Any]], unknown: UnknownValues
    ) -> Dataset:
        integers = np.stack([next(columns) for _ in range(INTEGERS)], axis=1)
        if self._rules.has_keys:
            keys = np.stack([next(columns) for _ in range(HASHES)], axis=1).astype(np.int64)
            return self._dataset(labels, np.maximum(integers, 0), keys, log_transform=True)
        ids = np.empty((len(labels), HASHES), np.int32)
        limit, rows = self._rules.max_ind_range, self._rules.table_rows
        for j in range(HASHES):
            values, index = np.ascontiguousarray(next(columns)), self._indexes[j]
            if index is None:
                hash_values(values, rows[j], ids[:, j])
                continue
            values = values % np.uint32(limit) if limit else values
            found = index.find(values)
            unknown.count_hashes(j, found, values)
            ids[:, j] = np.maximum(found, 0)
        return self._dataset(labels, np.maximum(integers, 0), ids, log_transform=True)

    def _dataset(
        self, labels: NDArray[Any], dense: NDArray[Any], ids: NDArray[Any], **facts: Any
    ) -> Dataset:
        """Return the rows; ids that are keys are not those of rows of tables."""
        bounds: Bounds = "ignore" if self._rules.has_keys else "raise"
        rows = self._rules.table_rows
        return Dataset(labels, dense, ids, rows, origin=self._origin, bounds=bounds, **facts)

    def _with_schema(
        self, labels: NDArray[Any], columns: Iterator[NDArray[Any]], unknown: UnknownValues
    ) -> Dataset:
        schema = self._rules.schema
        assert schema is not None
        numbers = {column.name: next(columns) for column in schema.numbers}
        raw = [numbers[column.name] for column in schema.dense]
        dense = np.empty((len(labels), len(schema.dense_features)), np.float32)
        if raw:
            dense[...] = transform_columns(schema, raw, self._rules.numbers).T
        ids, multi = [], []
        for j, category in enumerate(schema.categorical):
            if category.bins is not None:
                edges = self._rules.edges[CATEGORICAL][category.name]
                ids.append(bin_rows(numbers[category.name], edges))
                continue
            counts = next(columns) if category.is_multi else None
            found = self._texts(j, next(columns), next(columns), unknown)
            if counts is None:
                ids.append(found)
            else:
                offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
                multi.append((j, MultiHot(found, offsets)))
        single = np.stack(ids, axis=1) if ids else np.empty((len(labels), 0), np.int32)
        facts = {"multi": tuple(multi), "soft_labels": schema.has_fractions}
        return self._dataset(labels, dense, single, **facts)

    def _texts(
        self,
        j: int,
        lengths: NDArray[np.int32],
        text: NDArray[np.uint8],
        unknown: UnknownValues,
    ) -> NDArray[Any]:
        column, index = self._rules.columns[j], self._indexes[j]
        if column.has_keys:
            keys = np.empty(len(lengths), np.int64)
            hash_keys(text, lengths, keys)
            return keys
        if index is None:
            found = np.empty(len(lengths), np.int32)
            hash_to_rows(text, lengths, column.rows, found, column.missing_row >= 0)
            return found
        found = index.find(text, lengths)
        if column.missing_row >= 0:
            found[lengths == 0] = column.missing_row
        unknown.count_texts(j, found, lengths, text)
        ids: NDArray[np.int32] = np.maximum(found, 0)
        return ids


def in_batches(chunks: Iterator[EncodedRows], size: int) -> Iterator[EncodedRows]:
    """Yield the same rows in multiples of ``size``, except for the last."""
    left: EncodedRows | None = None
    for chunk in chunks:
        joined = chunk if left is None or not len(left) else _join(left, chunk)
        whole = len(joined) // size * size
        if whole:
            yield joined.cut(0, whole)
        left = joined.cut(whole, len(joined))
    if left is not None and len(left):
        yield left


def _join(first: EncodedRows, second: EncodedRows) -> EncodedRows:
    rows = concatenate([first.rows, second.rows])
    keys = [_join_key(a, b) for a, b in zip(first.keys, second.keys, strict=True)]
    return EncodedRows(replace(rows, origin=second.rows.origin), keys)


def _join_key(first: Any, second: Any) -> Any:
    if isinstance(first, list):
        return first + second
    from dlrmjit.data.formats.arrow import require_arrow

    arrow, _ = require_arrow("use keys that are text")
    return arrow.concat_arrays([first, second])
