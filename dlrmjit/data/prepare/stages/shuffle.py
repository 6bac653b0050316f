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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.dense_transform import NumberRules
from dlrmjit.data.prepare.files.column_file import FlatFile
from dlrmjit.data.prepare.files.records import Records, RecordShape
from dlrmjit.data.prepare.files.split_files import SplitFiles, SplitShape
from dlrmjit.data.prepare.files.staging import Staging, slices
from dlrmjit.data.prepare.journal import Journal
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.ordered_map import ordered_map
from dlrmjit.data.prepare.stages.lists import ListSplitter
from dlrmjit.data.prepare.stages.parts import row_ranges
from dlrmjit.data.prepare.stages.record_reader import READ_ROWS, PartitionedRecords, RecordReader
from dlrmjit.data.prepare.stages.split import SPLITS, TRAIN, Splitter
from dlrmjit.data.prepare.team import Team, first_of

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
        team: Team,
    ) -> None:
        self._options, self._staging, self._journal = options, staging, journal
        self._splitter, self._outputs, self._team = splitter, outputs, team
        self._shape = RecordShape(staging.layout)
        noted = journal.stage(PARTITION).get("buckets")
        if not noted:  # by the memory and the workers of one rank
            noted = first_of(team, lambda: self._buckets_for(memory, shapes))
        self._buckets = _by_split(noted)
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
        state = self._noted()
        if state.get("is_done"):
            return
        reader = RecordReader(self._options, self._staging, self._splitter, self._buckets, rules)
        ranges = state.setdefault("ranges", [])
        ranges += [] if ranges else self._ranges()

        def note(number: int, found: dict[str, Any], *, now: bool = False) -> None:
            ranges[number] = found
            self._journal.note(PARTITION, state, now=now)
            progress(sum(one["row"] - one["start"] for one in ranges))

        def work(number: int) -> dict[str, Any]:
            part = dict(ranges[number])
            for _ in self._partition(number, part, reader):
                if len(ranges) == 1:
                    note(number, part)
            return part

        left = [number for number, one in enumerate(ranges) if one["row"] < one["end"]]
        for number, found in self._team.map(work, left):
            note(number, found, now=True)
        state["is_done"] = True
        self._journal.note(PARTITION, state, now=True)
        if self._team.rank == 0:
            self._staging.drop_encoded()  # now, so that pages not yet on the disk are dropped

    def _noted(self) -> dict[str, Any]:
        """Return the state in the journal; earlier versions had one range of rows."""
        state = self._journal.stage(PARTITION)
        if "row" in state:
            names = "row", "sizes", "bags"
            one = {
                "start": 0,
                "end": self._splitter.rows,
                **{name: state.pop(name) for name in names},
            }
            state["ranges"] = [one]
        return state or {"buckets": self._buckets}

    def _ranges(self) -> list[dict[str, Any]]:
        """Return ranges of rows of which nothing is written yet, each for one rank.

        A range has buckets of its own. Its rows that are not sorted follow those of earlier
        ranges in the files of their splits.
        """
        bounds, buckets = row_ranges(self._splitter.rows, self._team.size), len(self._owners)
        numbers = range(len(bounds))
        sizes = [np.zeros((len(SPLITS), 1 + len(self._staging.layout.multi)), np.int64)]
        if len(bounds) > 1:
            found = dict(self._team.map(lambda i: self._split_sizes(*bounds[i]), numbers))
            sizes += [np.array(found[number], np.int64) for number in numbers]
        before = np.cumsum(sizes, axis=0)
        empty = [0] * len(self._staging.layout.multi)
        return [
            {
                "start": start,
                "end": end,
                "row": start,
                "sizes": [0] * buckets + before[number, :, 0].tolist(),
                "bags": [empty] * buckets + before[number, :, 1:].tolist(),
            }
            for number, (start, end) in enumerate(bounds)
        ]

    def _split_sizes(self, start: int, end: int) -> list[list[int]]:
        """Return the rows of each split among some, and the ids of each multi-valued column."""
        sizes = np.zeros((len(SPLITS), 1 + len(self._staging.layout.multi)), np.int64)
        with ExitStack() as stack:
            counts = [
                stack.enter_context(self._staging.counts(j)) for j in self._staging.layout.multi
            ]
            for first, last in slices(end, READ_ROWS, start):
                codes, part = self._splitter.codes(first, last), np.empty(last - first, np.int32)
                for m, file in enumerate([None, *counts]):
                    if file is not None:
                        file.read(first, part)
                    for s in range(len(SPLITS)):
                        chosen = codes == s
                        sizes[s, m] += (
                            chosen.sum() if file is None else part[chosen].sum(dtype=np.int64)
                        )
        return sizes.tolist()

    def _partition(
        self, number: int, state: dict[str, Any], reader: RecordReader
    ) -> Iterator[None]:
        """Write a range of rows, advancing ``state``; yield after every chunk."""
        with ExitStack() as stack:
            stack.enter_context(reader)
            spills = [stack.enter_context(self._spill(b, number)) for b in range(len(self._owners))]

            def write(placed: _PlacedRecords) -> _PlacedRecords:
                self._write(placed, spills)
                return placed

            workers, chunks = self._options.workers, reader.ranges(state["row"], state["end"])
            read = ordered_map(reader.read, chunks, workers, ahead=1)
            places = self._places(read, state["sizes"], state["bags"])
            for placed in ordered_map(write, places, workers, ahead=1):
                state["row"] = placed.records.end
                state["sizes"], state["bags"] = placed.sizes_after, placed.bags_after
                yield

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
        ranges, count = self._noted()["ranges"], len(self._owners)
        sizes = np.array([one["sizes"][:count] for one in ranges], np.int64)
        bags = np.array([one["bags"][:count] for one in ranges], np.int64).reshape(
            *sizes.shape, len(self._staging.layout.multi)
        )
        columns = np.column_stack([sizes.sum(axis=0), self._lists, bags.sum(axis=0)])
        firsts = _before(columns, self._owners)
        done = set(self._journal.stage(SORT).get("done", []))

        def work(b: int) -> None:
            parts = zip(sizes[:, b].tolist(), bags[:, b].sum(axis=1).tolist(), strict=True)
            self._sort_bucket(b, list(parts), firsts[b])

        left = [b for b in range(count) if b not in done]
        rows = sizes.sum(axis=0)
        for b, _ in self._team.map(work, left, self._options.workers):
            done.add(b)
            self._journal.note(SORT, {"done": sorted(done)}, now=True)
            if self._team.rank == 0:
                for number in range(len(ranges)):
                    self._spill(b, number).drop()
            progress(int(rows[sorted(done)].sum()), int(rows.sum()))

    def _sort_bucket(self, bucket: int, parts: list[tuple[int, int]], firsts: list[int]) -> None:
        """Write a sorted bucket after ``firsts``: rows, lists, and ids of multi-valued columns.

        ``parts`` are the rows and ids that each range has put in the bucket.
        """
        records = self._read_bucket(bucket, parts)
        first_row, first_list, *first_ids = firsts
        keys, output = records.keys(), self._outputs[SPLITS[self._owners[bucket]]]
        order = np.argsort(keys, kind="stable" if self._lists[bucket] else None)
        self._shape.write(records, order, output, first_row, first_ids)
        if self._lists[bucket]:
            ends = np.flatnonzero(np.diff(keys[order])) + 1
            output.write_lists(first_list, first_row + np.append(ends, len(records)))

    def _read_bucket(self, bucket: int, parts: list[tuple[int, int]]) -> Records:
        """Return the records of a bucket, in the order of the input."""
        rows, ids = np.cumsum([(0, 0), *parts], axis=0).T.tolist()
        fields = np.empty((rows[-1], self._shape.width), np.int32)
        bags = np.empty(ids[-1], np.int32)
        for number in range(len(parts)):
            with self._spill(bucket, number) as spill:
                of_rows = fields[rows[number] : rows[number + 1]]
                spill.read(of_rows, bags[ids[number] : ids[number + 1]])
        return self._shape.of(fields, bags)

    def _spill(self, bucket: int, number: int) -> _Spill:
        return _Spill(self._staging, bucket, number, self._shape.width)


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
    """What a range has put in a bucket, on disk: records, and the bags of multi-valued columns."""

    def __init__(self, staging: Staging, bucket: int, number: int, width: int) -> None:
        name = f"bucket{bucket:05}" + (f"-{number}" if number else "")
        path = staging.folder / f"{name}.records"
        self._files = [FlatFile(path, np.int32, width=width)]
        if staging.layout.multi:
            self._files.append(FlatFile(path.with_suffix(".bags"), np.int32))

    def write(self, row: int, first: int, *parts: NDArray[np.int32]) -> None:
        for file, position, part in zip(self._files, (row, first), parts, strict=False):
            file.write(position, part)

    def read(self, *parts: NDArray[np.int32]) -> None:
        for file, part in zip(self._files, parts, strict=False):
            file.read(0, part)

    def drop(self) -> None:
        """Delete the files of the bucket."""
        for file in self._files:
            file.remove()

    def __enter__(self) -> _Spill:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()
