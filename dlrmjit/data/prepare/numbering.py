"""Second pass: raw values of each categorical column into ids.

Columns are independent, so they are spread over workers; within a column values are numbered in
the order of their first appearance, as the reference numbers them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from dlrmjit_kernels.vocabulary import (
    count_ids,
    find_or_add,
    hash_values,
    insert_known,
    replace_ids,
)
from numpy.typing import NDArray

from dlrmjit.data.criteo_text import HASHES
from dlrmjit.data.prepare.columns import FlatFile, write_error
from dlrmjit.data.prepare.journal import Journal
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.pipeline import ordered_map
from dlrmjit.data.prepare.staging import CATEGORICAL_NAMES, Staging, slices
from dlrmjit.errors import MemoryLimitError

STAGE = "number"
_SLICE = 1 << 19
_FIRST_SLOTS = 1 << 12
_LOAD = 0.6  # of an open-addressing table's slots, beyond which probes get long


class VocabularyFullError(Exception):
    """A vocabulary outgrew its share of the memory; never seen by a caller."""


class Vocabulary:
    """Values numbered by first appearance, in at most ``budget`` bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.count = 0
        self._known = np.empty(int(_FIRST_SLOTS * _LOAD), np.uint32)
        self._slots = np.zeros(_FIRST_SLOTS, np.uint64)

    @property
    def values(self) -> NDArray[np.uint32]:
        """The values known, by id."""
        return self._known[: self.count]

    def number(self, values: NDArray[np.uint32], ids: NDArray[np.int32]) -> None:
        """Write the ids of ``values``, adding new ones; raises VocabularyFullError."""
        done = 0
        while True:
            limit = self._known.size
            found, self.count = find_or_add(
                values[done:], self._slots, self._known, self.count, limit, ids[done:]
            )
            done += found
            if done == values.size:
                return
            self._grow()

    def _grow(self) -> None:
        """Double the table; the old one is dropped before the new one is filled."""
        slots = 2 * self._slots.size
        room = int(slots * _LOAD)
        if 8 * slots + 4 * (room + self._known.size) > self._budget:
            raise VocabularyFullError
        self._slots = np.zeros(0, np.uint64)
        known = np.empty(room, np.uint32)
        known[: self.count] = self.values
        self._known = known
        self._slots = np.zeros(slots, np.uint64)
        insert_known(self._known, self.count, self._slots)


def number_columns(
    options: PrepareOptions,
    staging: Staging,
    journal: Journal,
    rows: int,
    memory: int,
    progress: Callable[[int], None],
) -> list[int]:
    """Number all columns, going on from the journal; the rows of each column's table.

    ``memory`` bounds the vocabularies that are held at one time. Raises MemoryLimitError for a
    column whose values do not fit into it even alone.
    """
    done = {int(c): int(n) for c, n in journal.stage(STAGE).items()}

    def work(budget: int) -> Callable[[int], int | None]:
        return lambda column: _try_column(column, options, staging, rows, budget)

    def run(columns: list[int], workers: int) -> list[int]:
        too_big = []
        results = ordered_map(work(memory // workers), columns, workers, ahead=0)
        for column, table_rows in zip(columns, results, strict=True):
            if table_rows is None:
                too_big.append(column)
                continue
            done[column] = table_rows
            journal.note(STAGE, {str(c): n for c, n in done.items()}, now=True)
            staging.raw(column).path.unlink(missing_ok=True)
            progress(len(done))
        return too_big

    left = run([c for c in range(HASHES) if c not in done], options.workers)
    left = run(left, 1)
    if left:
        raise _too_large(left[0], memory)
    return [done[c] for c in range(HASHES)]


def _too_large(column: int, memory: int) -> MemoryLimitError:
    return MemoryLimitError(
        f"the distinct values of column {CATEGORICAL_NAMES[column]} do not fit into the "
        f"{memory >> 20} MiB that --memory leaves for them; give more memory, bound them with "
        "--max-ind-range, or hash them with --hash-rows"
    )


def _try_column(
    column: int, options: PrepareOptions, staging: Staging, rows: int, budget: int
) -> int | None:
    """Number one column; the rows of its table, or None when ``budget`` does not hold it."""
    try:
        if options.hash_rows:
            _hash_column(column, options, staging, rows)
            return options.hash_rows
        vocabulary = Vocabulary(budget)
        with staging.raw(column) as raw, staging.ids(column) as ids:
            _number(raw, ids, rows, options.max_ind_range, vocabulary)
            values = _pruned(ids, rows, vocabulary.values, options)
        save_vocabulary(vocabulary_path(staging.folder, column), values)
        return len(values)
    except VocabularyFullError:
        return None


def _number(
    raw: FlatFile, ids: FlatFile, rows: int, max_ind_range: int, vocabulary: Vocabulary
) -> None:
    values, numbers = np.empty(_SLICE, np.uint32), np.empty(_SLICE, np.int32)
    for start, end in slices(rows, _SLICE):
        part = values[: end - start]
        raw.read(start, part)
        if max_ind_range:
            part %= np.uint32(max_ind_range)
        vocabulary.number(part, numbers[: end - start])
        ids.write(start, numbers[: end - start])


def _pruned(
    ids: FlatFile, rows: int, values: NDArray[np.uint32], options: PrepareOptions
) -> NDArray[np.uint32]:
    """Let rare values share id 0 where that was asked for; the values by id, then."""
    if options.min_count <= 1 and not options.max_rows:
        return values
    counts = np.zeros(len(values), np.int64)
    part = np.empty(_SLICE, np.int32)
    for start, end in slices(rows, _SLICE):
        ids.read(start, part[: end - start])
        count_ids(part[: end - start], counts)
    kept = _kept(counts, options)
    table = np.zeros(len(values), np.int32)
    table[kept] = np.arange(1, len(kept) + 1, dtype=np.int32)
    for start, end in slices(rows, _SLICE):
        ids.read(start, part[: end - start])
        replace_ids(part[: end - start], table)
        ids.write(start, part[: end - start])
    return np.concatenate([np.zeros(1, np.uint32), values[kept]])


def _kept(counts: NDArray[np.int64], options: PrepareOptions) -> NDArray[np.intp]:
    """Ids that keep a row of their own, in order of first appearance."""
    kept = np.flatnonzero(counts >= options.min_count)
    room = options.max_rows - 1
    if options.max_rows and len(kept) > room:
        most = np.argsort(-counts[kept], kind="stable")[:room]
        kept = np.sort(kept[most])
    return kept


def _hash_column(column: int, options: PrepareOptions, staging: Staging, rows: int) -> None:
    values, numbers = np.empty(_SLICE, np.uint32), np.empty(_SLICE, np.int32)
    with staging.raw(column) as raw, staging.ids(column) as ids:
        for start, end in slices(rows, _SLICE):
            raw.read(start, values[: end - start])
            hash_values(values[: end - start], options.hash_rows, numbers[: end - start])
            ids.write(start, numbers[: end - start])


def vocabulary_path(folder: Path, column: int) -> Path:
    """Where a column's values are kept, by id."""
    return folder / f"{CATEGORICAL_NAMES[column]}.npy"


def save_vocabulary(path: Path, values: NDArray[np.uint32]) -> None:
    """Write values by id as a ``.npy`` file of uint32."""
    try:
        np.save(path, values)
    except OSError as error:
        raise write_error(path, error) from None
