"""Lists of rows: the rows with one value in a column, wherever they are in the inputs.

Lists are numbered as they first appear, and in the set the rows of a list follow each other in the
order of the inputs. A list is in the split in which its first row would be if the lists followed
each other like that in the inputs; where inputs are days, in which its first row is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from dlrmjit_kernels.data.permutation import row_keys
from numpy.typing import NDArray

from dlrmjit.data.prepare.files.raw_columns import open_raw
from dlrmjit.data.prepare.files.staging import Staging, slices
from dlrmjit.data.prepare.files.vocabularies import VocabularyFullError
from dlrmjit.data.prepare.journal import Journal
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.stages.record_reader import buckets_of
from dlrmjit.data.prepare.stages.split import SPLITS, TRAIN, Splitter
from dlrmjit.data.prepare.team import Team, first_of
from dlrmjit.errors import DataError, MemoryLimitError

STAGE = "lists"
_SLICE = 1 << 18


def make_splitter(
    options: PrepareOptions,
    staging: Staging,
    journal: Journal,
    file_rows: Sequence[int],
    memory: int,
    team: Team,
) -> Splitter:
    """Return what assigns rows to splits; it cuts no list.

    Raises DataError for a row without a list, MemoryLimitError for names of lists that do not fit
    into ``memory``.
    """
    if staging.layout.lists < 0:
        return Splitter(options, file_rows)
    if not journal.stage(STAGE):
        first_of(team, lambda: _number_lists(options, staging, memory))
        journal.note(STAGE, {"is_done": True}, now=True)
        if staging.layout.has_list_column and team.rank == 0:
            staging.drop_raw(staging.layout.lists)
    return ListSplitter(options, file_rows, staging)


def _number_lists(options: PrepareOptions, staging: Staging, memory: int) -> None:
    """Write the number of every row's list."""
    assert options.schema is not None
    name = options.schema.lists
    with open_raw(staging, staging.layout.lists, 0) as raw, staging.list_numbers() as numbers:
        try:
            vocabulary = raw.encode(memory, numbers)
        except VocabularyFullError:
            raise MemoryLimitError(
                f"the distinct values of column {name}, which names lists, do not fit into the "
                f"{memory >> 20} MiB that --memory leaves for them; raise --memory"
            ) from None
        missing = vocabulary.missing_ids()
        if not missing:
            return
        part = np.empty(_SLICE, np.int32)
        for start, end in slices(len(raw), _SLICE):
            numbers.read(start, part[: end - start])
            found = np.flatnonzero(part[: end - start] == missing[0])
            if found.size:
                raise DataError(
                    f"row {start + int(found[0])} (from 0) has no value in column {name!r}, so it "
                    "is in no list; fill the column or leave such rows out"
                )


class ListSplitter(Splitter):
    """Assigns whole lists to splits, and orders them.

    Of list l, ``lengths`` (L,) int64 has the number of rows, ``splits`` (L,) uint8 the index of
    its split, and ``sort_keys`` (L,) uint64 where it is in its split.
    """

    def __init__(self, options: PrepareOptions, file_rows: Sequence[int], staging: Staging) -> None:
        super().__init__(options, file_rows)
        self._staging = staging
        self.lengths, firsts = self._measured()
        of_files = options.split.kind in ("days", "files") and len(file_rows) > 1
        starts = firsts if of_files else np.cumsum(self.lengths) - self.lengths
        self.splits = np.empty(len(starts), np.uint8)
        for start, end in slices(self.rows, _SLICE):
            lists = slice(*np.searchsorted(starts, (start, end)))
            self.splits[lists] = super().codes(start, end)[starts[lists] - start]
        self.sort_keys = self._sort_keys(options)

    def _measured(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the number of rows of every list, and its first row in the inputs."""
        lengths, firsts = np.empty(0, np.int64), [np.empty(0, np.int64)]
        for start, end in slices(self.rows, _SLICE):
            rows = self._numbers(start, end)
            numbers, first = np.unique(rows, return_index=True)
            firsts.append(start + first[numbers >= len(lengths)])
            lengths = np.concatenate([lengths, np.zeros(len(firsts[-1]), np.int64)])
            lengths += np.bincount(rows, minlength=len(lengths))
        return lengths, np.concatenate(firsts)

    def _sort_keys(self, options: PrepareOptions) -> NDArray[np.uint64]:
        """Return random keys of lists to shuffle, and keys that rise through each other split."""
        keys = np.empty(len(self.lengths), np.uint64)
        row_keys(options.seed, 0, keys)
        for split in range(len(SPLITS)):
            lists = np.flatnonzero(self.splits == split)
            if len(lists) and (split != TRAIN or options.shuffle == "none"):
                step = np.uint64(2**64 // (len(lists) + 1))  # spread over all buckets
                keys[lists] = np.arange(len(lists), dtype=np.uint64) * step
        return keys

    def _numbers(self, start: int, end: int) -> NDArray[np.int32]:
        numbers = np.empty(end - start, np.int32)
        with self._staging.list_numbers() as file:
            file.read(start, numbers)
        return numbers

    def codes(self, start: int, end: int) -> NDArray[np.uint8]:
        """Return the split of each of the rows ``start`` to ``end``, as an index of SPLITS."""
        return self.splits[self._numbers(start, end)]

    def keys(self, start: int, end: int) -> NDArray[np.uint64]:
        """Return the keys of rows, which are those of their lists."""
        return self.sort_keys[self._numbers(start, end)]

    def counts(self) -> list[int]:
        """Return the rows of each split. Raises ConfigError if none are left for training."""
        rows = np.bincount(self.splits, self.lengths, minlength=len(SPLITS))
        return self._checked([int(n) for n in rows])

    def buckets(self, row_bytes: Sequence[int], memory: int) -> list[int]:
        """Return the buckets of each split, so small that one fits into ``memory``.

        Raises MemoryLimitError for a list that does not, and a row of which takes ``row_bytes``.
        """
        counts = []
        for split, size in enumerate(row_bytes):
            lists, most = self.splits == split, memory // size
            longest = int(self.lengths[lists].max(initial=0))
            if longest > most:
                raise MemoryLimitError(
                    f"a list has {longest:,} rows, of which {most:,} fit into the {memory >> 20} "
                    "MiB that --memory leaves for it; raise --memory or take fewer --workers"
                )
            count = int(longest > 0)
            while count < np.count_nonzero(lists) and self._fullest(lists, count) > most:
                count *= 2
            counts.append(count)
        return counts

    def _fullest(self, lists: NDArray[np.bool_], count: int) -> int:
        """Return the rows of the fullest of ``count`` buckets of some lists."""
        found = buckets_of(self.sort_keys[lists], np.zeros(int(lists.sum()), np.uint8), [count])
        return int(np.bincount(found, self.lengths[lists]).max())

    def lists_of_buckets(self, counts: Sequence[int]) -> list[int]:
        """Return the number of lists in each bucket, ``counts[s]`` of which split s has."""
        found = buckets_of(self.sort_keys, self.splits, counts)
        return [int(n) for n in np.bincount(found, minlength=sum(counts))]

    def list_counts(self) -> list[int]:
        """Return the lists of each split."""
        return [int(n) for n in np.bincount(self.splits, minlength=len(SPLITS))]
