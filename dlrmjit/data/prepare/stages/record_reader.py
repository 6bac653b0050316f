"""Encoded columns into records, a bounded number of rows at a time, grouped by bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from dlrmjit_kernels.data.bag_gather import bag_ends, gather_bags
from dlrmjit_kernels.data.bag_records import scatter_bags
from dlrmjit_kernels.data.records import pack_records
from numpy.typing import NDArray

from dlrmjit.data.dense_transform import NumberRules, transform_columns
from dlrmjit.data.prepare.files.column_file import Column
from dlrmjit.data.prepare.files.records import Records, RecordShape
from dlrmjit.data.prepare.files.staging import Staging, slices
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.stages.split import SPLITS, Splitter
from dlrmjit.data.validate import check_sample_weights

READ_ROWS = 1 << 15
_READ_BYTES = 16 << 20


@dataclass(frozen=True)
class PartitionedRecords:
    """Records of the rows before ``end``, grouped by bucket; bucket b ends at ``ends[b]``."""

    end: int
    records: Records
    ends: NDArray[np.int64]

    def by_bucket(self) -> Iterator[tuple[int, Records]]:
        """Yield each bucket that has records, and these."""
        first = 0
        for b, last in enumerate(self.ends.tolist()):
            if last > first:
                yield b, self.records.cut(first, last)
            first = last


@dataclass(frozen=True)
class _RowRange:
    """Rows ``start`` to ``end``, the sizes of their bags and the number of ids before them."""

    start: int
    end: int
    counts: NDArray[np.int32]
    firsts: list[int]


class RecordReader:
    """Reads records; the rows of split s go to one of ``buckets[s]`` buckets by key.

    With b buckets in all, bucket b + s has the rows of a split s without buckets, which is not
    sorted. ``rules`` are those of the columns of numbers.
    """

    def __init__(
        self,
        options: PrepareOptions,
        staging: Staging,
        splitter: Splitter,
        buckets: Sequence[int],
        rules: NumberRules,
    ) -> None:
        self._staging, self._splitter, self._rules = staging, splitter, rules
        self._buckets = buckets
        self._schema = options.schema
        self._numbers = len(options.schema.dense) if options.schema else staging.layout.numbers
        self._shape = RecordShape(staging.layout)
        with ExitStack() as stack:
            layout = staging.layout
            labels = stack.enter_context(staging.labels())
            ids = [stack.enter_context(staging.ids(j)) for j in layout.multi]
            self.rows = len(labels)
            values = sum(len(file) for file in ids)
        row_bytes = 4 * (self._shape.width + values // max(self.rows, 1))
        self._read_rows = max(1, min(READ_ROWS, _READ_BYTES * 4 // row_bytes))

    def __enter__(self) -> RecordReader:
        layout, stack = self._staging.layout, ExitStack()
        self._stack = stack
        enter = stack.enter_context
        self._labels = enter(self._staging.labels())
        self._dense = [enter(self._staging.dense(i)) for i in range(self._numbers)]
        last = layout.numbers - 1
        self._weights = [enter(self._staging.dense(last))] if layout.weighted else []
        self._single = [enter(self._staging.ids(j)) for j in layout.single]
        self._multi = [enter(self._staging.ids(j)) for j in layout.multi]
        self._counts = [enter(self._staging.counts(j)) for j in layout.multi]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ranges(self, first: int, last: int) -> Iterator[_RowRange]:
        """Yield ranges of rows to read, from row ``first`` to ``last``."""
        firsts = [total(counts, 0, first) for counts in self._counts]
        for start, end in slices(last, self._read_rows, first):
            counts = np.empty((len(self._counts), end - start), np.int32)
            for file, row in zip(self._counts, counts, strict=True):
                file.read(start, row)
            yield _RowRange(start, end, counts, firsts)
            sizes = counts.sum(axis=1, dtype=np.int64).tolist()
            firsts = [first + size for first, size in zip(firsts, sizes, strict=True)]

    def read(self, span: _RowRange) -> PartitionedRecords:
        """Return the records of a range of rows."""
        n = span.end - span.start
        labels = np.empty(n, self._labels.dtype)
        self._labels.read(span.start, labels)
        if self._staging.layout.soft_labels:
            labels = labels.view(np.int32)
        keys = self._splitter.keys(span.start, span.end)
        codes = self._splitter.codes(span.start, span.end)
        buckets = buckets_of(keys, codes, self._buckets)
        order = np.argsort(buckets, kind="stable")
        fields = np.empty((n, self._shape.width), np.int32)
        ids = self._ids(span)
        pack_records(order, keys, labels, self._dense_fields(span), ids, fields)
        sizes = np.bincount(buckets, minlength=sum(self._buckets) + len(SPLITS))
        return PartitionedRecords(span.end, self._with_bags(fields, order, span), np.cumsum(sizes))

    def _ids(self, span: _RowRange) -> NDArray[np.int32]:
        """Return the ids of single-valued columns, then the sizes of bags: (S + M, n)."""
        single = len(self._single)
        ids = np.empty((single + len(self._multi), span.end - span.start), np.int32)
        for file, column in zip(self._single, ids, strict=False):
            file.read(span.start, column)
        ids[single:] = span.counts
        return ids

    def _dense_fields(self, span: _RowRange) -> NDArray[np.int32]:
        """Return the transformed dense values (D, n), reinterpreted as int32."""
        dense_type = self._staging.layout.dense_type
        dense = np.empty((len(self._dense), span.end - span.start), dense_type)
        for file, values in zip(self._dense, dense, strict=True):
            file.read(span.start, values)
        if self._schema is None:
            return dense
        transformed = np.empty(dense.shape, np.float32)
        if self._numbers:
            transformed = transform_columns(self._schema, list(dense), self._rules)
        weights = [self._read_weights(file, span) for file in self._weights]
        return np.concatenate([transformed, *weights]).view(np.int32)

    def _read_weights(self, file: Column, span: _RowRange) -> NDArray[np.float32]:
        """Return the weights (1, n) of rows. Raises DataError for the first that cannot be one."""
        weights = np.empty(span.end - span.start, np.float64)
        file.read(span.start, weights)
        assert self._schema is not None
        check_sample_weights(weights, f"column {self._schema.weight!r}", span.start)
        return weights.astype(np.float32)[None]

    def _with_bags(
        self, fields: NDArray[np.int32], order: NDArray[np.int64], span: _RowRange
    ) -> Records:
        """Return records with the bags of their rows, in the same order."""
        offsets = np.concatenate([[0], np.cumsum(span.counts.sum(axis=0, dtype=np.int64))])
        merged = np.empty(int(offsets[-1]), np.int32)
        for m, file in enumerate(self._multi):
            values = np.empty(int(span.counts[m].sum(dtype=np.int64)), np.int32)
            file.read(span.firsts[m], values)
            scatter_bags(span.counts, m, offsets, values, merged)
        ends = np.empty(len(order) + 1, np.int64)
        bag_ends(order, offsets, len(merged), 0, 0, ends)
        bags = np.empty_like(merged)
        gather_bags(order, offsets, merged, 0, 0, ends, bags)
        return Records(fields, bags, ends)


def buckets_of(
    keys: NDArray[np.uint64], codes: NDArray[np.uint8], counts: Sequence[int]
) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """Return the buckets of rows with these keys and splits, ``counts[s]`` of which split s has.

    Splits without buckets have the numbers after the buckets.
    """
    total = sum(counts)
    dtype = np.uint16 if total < 60000 else np.uint32
    buckets = codes + np.uint32(total)
    first, high = 0, keys >> np.uint64(32)
    for split, count in enumerate(counts):
        if count:
            # multiply and shift scales the high 32 bits of a key to 0 .. count - 1, in order
            by_key = ((high * np.uint64(count)) >> np.uint64(32)) + np.uint64(first)
            buckets[codes == split] = by_key[codes == split]
        first += count
    return np.asarray(buckets, dtype)  # fewer bits sort faster


def total(file: Column, start: int, end: int) -> int:
    """Return the sum of an int32 column's elements ``start`` to ``end``."""
    part, result = np.empty(READ_ROWS, np.int32), 0
    for first, last in slices(end, READ_ROWS, start):
        file.read(first, part[: last - first])
        result += int(part[: last - first].sum(dtype=np.int64))
    return result
