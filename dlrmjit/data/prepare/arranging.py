"""Third step: numbered columns into the files of the set, shuffled on the way.

The order of a shuffle is that of a 64-bit key per row, a function of the seed and the row's
place in the input. Rows are first dealt into buckets by the key's upper bits, so that each
bucket fits into memory, then each bucket is sorted: the result does not depend on the number
of buckets, that is, on the memory there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dlrmjit_kernels.permutation import row_keys
from dlrmjit_kernels.records import (
    KEY_WORDS,
    pack_records,
    record_keys,
    small_logarithms,
    unpack_records,
)
from numpy.typing import NDArray

from dlrmjit.data.criteo_text import HASHES, INTEGERS
from dlrmjit.data.prepare.columns import FlatFile
from dlrmjit.data.prepare.journal import Journal
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.output import SplitFiles
from dlrmjit.data.prepare.pipeline import ordered_map
from dlrmjit.data.prepare.splitting import SPLITS, TRAIN, Splitter
from dlrmjit.data.prepare.staging import Staging, slices

DEAL, SORT = "deal", "sort"
_CHUNK = 1 << 16
_WIDTH = KEY_WORDS + 1 + INTEGERS + HASHES
RECORD_BYTES = 4 * _WIDTH
_BUCKET_COST = RECORD_BYTES + 8 + 8 + 8  # a record, its key, its place, room to sort in


@dataclass(frozen=True)
class Dealt:
    """Records of one chunk of rows, grouped by bucket; bucket b ends at ``ends[b]``."""

    end: int
    records: NDArray[np.int32]
    ends: NDArray[np.int64]


class Arranger:
    """Writes the splits of one set; ``memory`` bounds what is held at one time."""

    def __init__(
        self,
        options: PrepareOptions,
        staging: Staging,
        journal: Journal,
        splitter: Splitter,
        counts: list[int],
        outputs: dict[str, SplitFiles],
        memory: int,
    ) -> None:
        self._options, self._staging, self._journal = options, staging, journal
        self._splitter, self._counts, self._outputs = splitter, counts, outputs
        self._logarithms = small_logarithms()
        self._rows = sum(counts)
        self._buckets = journal.stage(DEAL).get("buckets") or self._buckets_for(memory)

    def _buckets_for(self, memory: int) -> int:
        """Buckets of the shuffled split, each small enough for every worker to hold one."""
        if self._options.shuffle == "none":
            return 0
        share = memory // self._options.workers
        # keys spread evenly; an eighth more room than the mean is beyond any deviation
        return -(-self._counts[TRAIN] * _BUCKET_COST * 9 // (8 * share))

    def deal(self, progress: Callable[[int], None]) -> None:
        """Write unshuffled splits to their files, and shuffled rows to their buckets."""
        state = self._journal.stage(DEAL) or {
            "row": 0,
            "buckets": self._buckets,
            "sizes": [0] * (self._buckets + len(SPLITS)),
        }
        if state["row"] == self._rows:
            return
        with ExitStack() as stack:
            spills = [stack.enter_context(self._spill(b)) for b in range(self._buckets)]
            for chunk in self._dealt(state["row"]):
                self._store(chunk, spills, state["sizes"])
                state["row"] = chunk.end
                self._journal.note(DEAL, state)
                progress(chunk.end)
        self._journal.note(DEAL, state, now=True)
        self._staging.drop_numbered()  # at once: what the disk has not seen need not be written

    def _dealt(self, first: int) -> Iterator[Dealt]:
        """Chunks of records from row ``first`` on."""
        with ExitStack() as stack:
            files = [stack.enter_context(file) for file in self._staging.numbered_files()]
            yield from ordered_map(
                lambda bounds: self._read_chunk(files, *bounds),
                slices(self._rows, _CHUNK, first),
                self._options.workers,
                ahead=1,
            )

    def _read_chunk(self, files: list[FlatFile], start: int, end: int) -> Dealt:
        n = end - start
        labels = np.empty(n, np.uint8)
        columns = np.empty((INTEGERS + HASHES, n), np.int32)
        files[0].read(start, labels)
        for file, column in zip(files[1:], columns, strict=True):
            file.read(start, column)
        keys = np.empty(n, np.uint64)
        row_keys(self._options.seed, start, keys)
        buckets = self._buckets_of(keys, self._splitter.codes(start, end))
        order = np.argsort(buckets, kind="stable")
        records = np.empty((n, _WIDTH), np.int32)
        pack_records(order, keys, labels, columns[:INTEGERS], columns[INTEGERS:], records)
        sizes = np.bincount(buckets, minlength=self._buckets + len(SPLITS))
        return Dealt(end, records, np.cumsum(sizes))

    def _buckets_of(
        self, keys: NDArray[np.uint64], codes: NDArray[np.uint8]
    ) -> NDArray[np.unsignedinteger[Any]]:
        """Buckets of shuffled rows; the numbers behind them stand for the unshuffled splits."""
        narrow = np.uint16 if self._buckets < 60000 else np.uint32
        buckets = codes + np.uint32(self._buckets)
        if self._buckets:
            high = keys >> np.uint64(32)
            dealt = (high * np.uint64(self._buckets)) >> np.uint64(32)
            buckets[codes == TRAIN] = dealt[codes == TRAIN]
        return np.asarray(buckets, narrow)  # the fewer bits, the faster it sorts

    def _store(self, chunk: Dealt, spills: list[FlatFile], sizes: list[int]) -> None:
        first = 0
        for b, last in enumerate(chunk.ends.tolist()):
            part = chunk.records[first:last]
            if b < self._buckets:
                spills[b].write(sizes[b], part)
            elif len(part):
                self._write(SPLITS[b - self._buckets], sizes[b], part, np.arange(len(part)))
            sizes[b] += len(part)
            first = last

    def _write(
        self, split: str, row: int, records: NDArray[np.int32], order: NDArray[np.int64]
    ) -> None:
        """Write ``records`` in ``order`` as the rows of a split from ``row`` on."""
        output = self._outputs[split]
        for start, end in slices(len(order), _CHUNK):
            labels, dense, ids = output.empty(end - start)
            unpack_records(
                records,
                order[start:end],
                labels,
                dense,
                ids,
                self._logarithms,
                self._options.dense == "float32",
            )
            output.write(row + start, labels, dense, ids)

    def sort(self, progress: Callable[[int], None]) -> None:
        """Sort each bucket by key into its place in the shuffled split."""
        sizes = self._journal.stage(DEAL)["sizes"][: self._buckets]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int).tolist()
        done = set(self._journal.stage(SORT).get("done", []))
        left = [b for b in range(self._buckets) if b not in done]
        results = ordered_map(
            lambda b: self._sort_bucket(b, starts[b], sizes[b]),
            left,
            self._options.workers,
            ahead=0,
        )
        for b in left:
            next(results)
            done.add(b)
            self._journal.note(SORT, {"done": sorted(done)}, now=True)
            self._spill_path(b).unlink(missing_ok=True)
            progress(sum(sizes[b] for b in done))

    def _sort_bucket(self, bucket: int, first_row: int, size: int) -> None:
        records = np.empty((size, _WIDTH), np.int32)
        with self._spill(bucket) as spill:
            spill.read(0, records)
        keys = np.empty(size, np.uint64)
        record_keys(records, keys)
        self._write(SPLITS[TRAIN], first_row, records, np.argsort(keys))

    def _spill(self, bucket: int) -> FlatFile:
        return FlatFile(self._spill_path(bucket), np.int32, width=_WIDTH)

    def _spill_path(self, bucket: int) -> Path:
        return self._staging.folder / f"bucket{bucket:05}.records"
