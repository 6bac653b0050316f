"""Third stage: encoded columns into the files of the set, shuffled.

The order of a shuffle is that of a 64-bit key per row, a function of the seed and the row's
position in the input. Rows are first partitioned into buckets by the high bits of the key, so
that each bucket fits into memory, then each bucket is sorted. The result therefore does not
depend on the number of buckets, that is, on the available memory.

Rows of one list have one key, which brings them together: all splits are sorted then, those that
are not shuffled by keys that rise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.dense_transform import NumberRules
from dlrmjit.data.prepare.files.column_file import FlatFile
from dlrmjit.data.prepare.files.records import RecordShape
from dlrmjit.data.prepare.files.split_files import SplitFiles, SplitShape
from dlrmjit.data.prepare.files.staging import Staging
from dlrmjit.data.prepare.journal import Journal
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.ordered_map import ordered_map
from dlrmjit.data.prepare.stages.lists import ListSplitter
from dlrmjit.data.prepare.stages.record_reader import PartitionedRecords, RecordReader
from dlrmjit.data.prepare.stages.split import SPLITS, TRAIN, Splitter
from dlrmjit.files import remove_work_file

PARTITION, SORT = "deal", "sort"  # in the journal, which an older version may have written
_CACHED = 8 << 20  # bytes of a bucket whose rows are read out of order from the cache
_MOST_BUCKETS = 128  # more would be written in pieces too small
_SORTING_BYTES = 24  # per row: its key, its position, and the scratch space of a sort


@dataclass(frozen=True)
class _PlacedRecords:
    """Records, and the sizes of all buckets, and of their bags, before and after they are added."""

    records: PartitionedRecords
    sizes: list[int]
    bags: list[list[int]]
    sizes_after: list[int]
    bags_after: list[list[int]]


class Shuffler:
    """Writes the splits of one set, using at most ``memory`` bytes for buckets.

    ``shapes`` and ``outputs`` are the shape and the files of each split. Raises MemoryLimitError
    for a list that does not fit.
    """

    def __init__(
        self,
        options: PrepareOptions,
        staging: Staging,
        journal: Journal,
        splitter: Splitter,
        shapes: Mapping[str, SplitShape],
        outputs: Mapping[str, SplitFiles],
        memory: int,
    ) -> None:
        self._options, self._staging, self._journal = options, staging, journal
        self._splitter, self._outputs = splitter, outputs
        self._shape = RecordShape(staging.layout)
        noted = journal.stage(PARTITION).get("buckets")
        self._buckets = _by_split(noted) if noted else self._buckets_for(memory, shapes)
        self._owners = [s for s, count in enumerate(self._buckets) for _ in range(count)]
        self._lists = [0] * len(self._owners)  # in each bucket
        if isinstance(splitter, ListSplitter):
            self._lists = splitter.lists_of_buckets(self._buckets)

    def _buckets_for(self, memory: int, shapes: Mapping[str, SplitShape]) -> list[int]:
        """Return the buckets of each split, so small that every worker can hold one in memory."""
        each = memory // self._options.workers
        sizes = {name: self._bytes(shape) for name, shape in shapes.items()}
        if isinstance(self._splitter, ListSplitter):
            row_bytes = {name: -(-size // shapes[name].rows) for name, size in sizes.items()}
            return self._splitter.buckets([row_bytes.get(name, 1) for name in SPLITS], each)
        if self._options.shuffle == "none":
            return _by_split(0)
        size = sizes[SPLITS[TRAIN]]
        # keys are uniform, so no bucket exceeds the mean size by an eighth
        return _by_split(max(-(-size * 9 // (8 * each)), min(-(-size // _CACHED), _MOST_BUCKETS)))

    def _bytes(self, shape: SplitShape) -> int:
        """Return the bytes of all rows of a split while they are sorted."""
        ids = sum(shape.bags.values())
        return shape.rows * (4 * self._shape.width + _SORTING_BYTES) + ids * 8

    def partition(self, rules: NumberRules, progress: Callable[[int], None]) -> None:
        """Write rows that are not sorted to their files, and the others to their buckets."""
        buckets = len(self._owners) + len(SPLITS)
        state = self._journal.stage(PARTITION) or {
            "row": 0,
            "buckets": self._buckets,
            "sizes": [0] * buckets,
            "bags": [[0] * len(self._staging.layout.multi) for _ in range(buckets)],
        }
        if state.get("is_done"):
            return
        reader = RecordReader(self._options, self._staging, self._splitter, self._buckets, rules)
        with ExitStack() as stack:
            stack.enter_context(reader)
            spills = [stack.enter_context(self._spill(b)) for b in range(len(self._owners))]

            def write(placed: _PlacedRecords) -> _PlacedRecords:
                self._write(placed, spills)
                return placed

            workers = self._options.workers
            read = ordered_map(reader.read, reader.ranges(state["row"]), workers, ahead=1)
            places = self._places(read, state["sizes"], state["bags"])
            for placed in ordered_map(write, places, workers, ahead=1):
                state["row"] = placed.records.end
                state["sizes"], state["bags"] = placed.sizes_after, placed.bags_after
                self._journal.note(PARTITION, state)
                progress(placed.records.end)
        state["is_done"] = True
        self._journal.note(PARTITION, state, now=True)
        self._staging.drop_encoded()  # now, so that pages not yet written to the disk are dropped

    def _places(
        self, parts: Iterable[PartitionedRecords], sizes: list[int], bags: list[list[int]]
    ) -> Iterator[_PlacedRecords]:
        """Yield where the records of each part are to be written, after ``sizes`` and ``bags``."""
        for part in parts:
            sizes_after, bags_after = list(sizes), list(bags)
            for b, records in part.by_bucket():
                sizes_after[b] += len(records)
                totals = self._shape.bag_totals(records).tolist()
                bags_after[b] = [old + new for old, new in zip(bags[b], totals, strict=True)]
            yield _PlacedRecords(part, sizes, bags, sizes_after, bags_after)
            sizes, bags = sizes_after, bags_after

    def _write(self, placed: _PlacedRecords, spills: list[_Spill]) -> None:
        """Write records to their buckets, or to splits that are not sorted."""
        for b, records in placed.records.by_bucket():
            row, bags = placed.sizes[b], placed.bags[b]
            if b < len(self._owners):
                spills[b].write(row, sum(bags), records.fields, records.bags)
            else:
                output = self._outputs[SPLITS[b - len(self._owners)]]
                self._shape.write(records, np.arange(len(records)), output, row, bags)

    def sort(self, progress: Callable[[int, int], None]) -> None:
        """Sort each bucket by key and write it to its split.

        ``progress`` is called with the rows that are sorted and those that are to be.
        """
        state, count = self._journal.stage(PARTITION), len(self._owners)
        sizes, bags = state["sizes"][:count], state["bags"][:count]
        columns = np.array(
            [
                [size, lists, *of_bags]
                for size, lists, of_bags in zip(sizes, self._lists, bags, strict=True)
            ],
            np.int64,
        )
        firsts = _before(columns, self._owners)
        done = set(self._journal.stage(SORT).get("done", []))
        left = [b for b in range(count) if b not in done]
        results = ordered_map(
            lambda b: self._sort_bucket(b, sizes[b], sum(bags[b]), firsts[b]),
            left,
            self._options.workers,
            ahead=0,
        )
        for b in left:
            next(results)
            done.add(b)
            self._journal.note(SORT, {"done": sorted(done)}, now=True)
            self._spill(b).drop()
            progress(sum(sizes[b] for b in done), sum(sizes))

    def _sort_bucket(self, bucket: int, rows: int, bags: int, firsts: list[int]) -> None:
        """Write a sorted bucket after ``firsts``: rows, lists, and ids of multi-valued columns."""
        with self._spill(bucket) as spill:
            records = self._shape.of(*spill.read(rows, bags))
        first_row, first_list, *first_ids = firsts
        keys, output = records.keys(), self._outputs[SPLITS[self._owners[bucket]]]
        order = np.argsort(keys, kind="stable" if self._lists[bucket] else None)
        self._shape.write(records, order, output, first_row, first_ids)
        if self._lists[bucket]:
            ends = np.flatnonzero(np.diff(keys[order])) + 1
            output.write_lists(first_list, first_row + np.append(ends, rows))

    def _spill(self, bucket: int) -> _Spill:
        return _Spill(self._staging, bucket, self._shape.width)


def _by_split(buckets: int | list[int]) -> list[int]:
    """Return the buckets of each split; a number is that of the training rows."""
    return (
        [buckets if s == TRAIN else 0 for s in range(len(SPLITS))]
        if isinstance(buckets, int)
        else buckets
    )


def _before(counts: NDArray[np.int64], owners: list[int]) -> list[list[int]]:
    """Return the sums of the rows of ``counts`` (B, C) before each row, of the same owner."""
    sums = np.zeros((len(SPLITS), *counts.shape[1:]), np.int64)
    firsts = []
    for owner, row in zip(owners, counts, strict=True):
        firsts.append([int(n) for n in sums[owner]])
        sums[owner] += row
    return firsts


class _Spill:
    """A bucket on disk: records, and the bags of multi-valued columns."""

    def __init__(self, staging: Staging, bucket: int, width: int) -> None:
        path = staging.folder / f"bucket{bucket:05}.records"
        self._width = width
        self._files = [FlatFile(path, np.int32, width=width)]
        if staging.layout.multi:
            self._files.append(FlatFile(path.with_suffix(".bags"), np.int32))

    def write(self, row: int, first: int, *parts: NDArray[np.int32]) -> None:
        for file, position, part in zip(self._files, (row, first), parts, strict=False):
            file.write(position, part)

    def read(self, rows: int, bags: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        parts = np.empty((rows, self._width), np.int32), np.empty(bags, np.int32)
        for file, part in zip(self._files, parts, strict=False):
            file.read(0, part)
        return parts

    def drop(self) -> None:
        """Delete the files of the bucket."""
        with self:
            for file in self._files:
                remove_work_file(file.path)

    def __enter__(self) -> _Spill:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()
