"""Vocabularies of hashes and texts: ids by first appearance, within a memory bound."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from dlrmjit_kernels.data.strings import (
    find_or_add_texts,
    find_texts,
    hash_texts,
    insert_texts,
    select_texts,
)
from dlrmjit_kernels.data.vocabulary import find, find_or_add, insert_known
from numpy.typing import NDArray

from dlrmjit.data.prepare.files.column_file import writing
from dlrmjit.files import rewrite_work_file

_FIRST_SLOTS = 1 << 12
_FIRST_BYTES = 1 << 16
_LOAD = 0.6  # share of slots in use, beyond which probes of open addressing get long


class VocabularyFullError(Exception):
    """A vocabulary outgrew its share of the memory; a preparation handles it."""


class HashVocabulary:
    """A vocabulary of 32-bit hashes in at most ``budget`` bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.count = 0
        self._known = np.empty(int(_FIRST_SLOTS * _LOAD), np.uint32)
        self._slots = np.zeros(_FIRST_SLOTS, np.uint64)

    @property
    def values(self) -> NDArray[np.uint32]:
        """The known hashes by id."""
        return self._known[: self.count]

    def encode(self, values: NDArray[np.uint32], ids: NDArray[np.int32]) -> None:
        """Write the ids of ``values``, adding new ones. Raises VocabularyFullError."""
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
        """Double the hash table; free the old one before the new one is filled."""
        slots = 2 * self._slots.size
        capacity = int(slots * _LOAD)
        if 8 * slots + 4 * (capacity + self._known.size) > self._budget:
            raise VocabularyFullError
        self._slots = np.zeros(0, np.uint64)
        known = np.empty(capacity, np.uint32)
        known[: self.count] = self.values
        self._known = known
        self._slots = np.zeros(slots, np.uint64)
        insert_known(self._known, self.count, self._slots)

    def missing_ids(self) -> list[int]:
        """Return the ids of missing values: none, because a hash is a value in Criteo's sets."""
        return []

    def save(self, path: Path, frequent: NDArray[np.intp] | None, reserved_rows: int) -> None:
        """Write hashes by id as a ``.npy`` file.

        With ``frequent``, write only those ids, after zeros for the reserved rows.
        """
        values = self.values
        if frequent is not None:
            values = np.concatenate([np.zeros(reserved_rows, np.uint32), values[frequent]])
        with writing(path), rewrite_work_file(path) as file:
            np.save(file, values)


class TextVocabulary:
    """A vocabulary of texts in at most ``budget`` bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.count = 0
        self._ends = np.empty(int(_FIRST_SLOTS * _LOAD), np.int64)
        self._heap = np.empty(_FIRST_BYTES, np.uint8)
        self._slots = np.zeros(_FIRST_SLOTS, np.uint64)

    @property
    def used(self) -> int:
        """Bytes of all known texts."""
        return int(self._ends[self.count - 1]) if self.count else 0

    @property
    def values(self) -> list[bytes]:
        """The known texts by id."""
        return texts_of(self._heap, self._ends[: self.count])

    def encode(
        self, text: NDArray[np.uint8], lengths: NDArray[np.int32], ids: NDArray[np.int32]
    ) -> None:
        """Write the ids of texts, adding new ones. Raises VocabularyFullError."""
        done, first_byte = 0, 0
        while True:
            encoded, size, self.count = find_or_add_texts(
                text[first_byte:],
                lengths[done:],
                self._slots,
                self._heap,
                self._ends,
                self.count,
                self._ends.size,
                ids[done:],
            )
            done, first_byte = done + encoded, first_byte + size
            if done == lengths.size:
                return
            self._grow_for(int(lengths[done]))

    def _grow_for(self, size: int) -> None:
        """Grow until one more text of ``size`` bytes fits."""
        if self.count == self._ends.size:
            self._grow_slots()
        if self.used + size > self._heap.size:
            self._grow_heap(self.used + size)

    def _grow_slots(self) -> None:
        slots = 2 * self._slots.size
        capacity = int(slots * _LOAD)
        self._check_budget(8 * slots + 8 * (capacity + self._ends.size) + self._heap.size)
        self._slots = np.zeros(0, np.uint64)
        ends = np.empty(capacity, np.int64)
        ends[: self.count] = self._ends[: self.count]
        self._ends = ends
        self._slots = np.zeros(slots, np.uint64)
        insert_texts(self._heap, self._ends, 0, self.count, self._slots)

    def _grow_heap(self, least: int) -> None:
        size = max(self._heap.size * 3 // 2, least)
        self._check_budget(8 * (self._slots.size + self._ends.size) + self._heap.size + size)
        heap = np.empty(size, np.uint8)
        heap[: self.used] = self._heap[: self.used]
        self._heap = heap

    def _check_budget(self, size: int) -> None:
        if size > self._budget:
            raise VocabularyFullError

    def missing_ids(self) -> list[int]:
        """Return the ids of missing values, whose text is empty: one, or none."""
        lengths = np.diff(self._ends[: self.count], prepend=0)
        return [int(i) for i in np.flatnonzero(lengths == 0)]

    def save(self, path: Path, frequent: NDArray[np.intp] | None, reserved_rows: int) -> None:
        """Write the ``bytes`` of all texts and the ``ends`` of each, as an ``.npz`` file.

        With ``frequent``, write only those ids, after empty texts for the reserved rows.
        """
        heap, ends = self._heap[: self.used], self._ends[: self.count]
        if frequent is not None:
            starts = np.concatenate([[0], ends[:-1]])
            chosen_ends = np.zeros(reserved_rows + len(frequent), np.int64)
            out = np.empty(int((ends - starts)[frequent].sum()), np.uint8)
            select_texts(heap, ends, frequent.astype(np.int64), out, chosen_ends[reserved_rows:])
            heap, ends = out, chosen_ends
        with writing(path), rewrite_work_file(path) as file:
            np.savez(file, bytes=heap, ends=ends)


def hash_to_rows(
    text: NDArray[np.uint8],
    lengths: NDArray[np.int32],
    rows: int,
    ids: NDArray[np.int32],
    has_missing_row: bool,
) -> None:
    """Write the hashed row of each text; with ``has_missing_row``, row 0 is for empty ones."""
    hash_texts(text, lengths, rows - has_missing_row, ids)
    if has_missing_row:
        ids += 1
        ids[lengths == 0] = 0


class HashIndex:
    """Finds the ids of hashes in a saved vocabulary, whose first ``reserved`` entries are none."""

    def __init__(self, known: NDArray[np.uint32], reserved: int) -> None:
        self._reserved = reserved
        values = np.ascontiguousarray(known[reserved:])
        self._slots = _slots_for(len(values))
        insert_known(values, len(values), self._slots)

    def find(self, values: NDArray[np.uint32]) -> NDArray[np.int32]:
        """Return the ids of ``values``, -1 for unknown ones."""
        found = np.empty(len(values), np.int32)
        find(values, self._slots, -1, found)
        return _shift_ids(found, self._reserved)


class TextIndex:
    """Finds the ids of texts in a saved vocabulary, whose first ``reserved`` entries are none.

    Reserved entries are empty texts, so dropping them shifts no bytes.
    """

    def __init__(self, known: tuple[NDArray[np.uint8], NDArray[np.int64]], reserved: int) -> None:
        self._heap, ends = known
        self._ends, self._reserved = np.ascontiguousarray(ends[reserved:]), reserved
        self._slots = _slots_for(len(self._ends))
        insert_texts(self._heap, self._ends, 0, len(self._ends), self._slots)

    def find(self, text: NDArray[np.uint8], lengths: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the ids of texts, -1 for unknown ones."""
        found = np.empty(len(lengths), np.int32)
        find_texts(text, lengths, self._slots, self._heap, self._ends, -1, found)
        return _shift_ids(found, self._reserved)


def texts_of(heap: NDArray[np.uint8], ends: NDArray[np.int64]) -> list[bytes]:
    """Return the texts of a saved vocabulary as a list."""
    raw, starts = heap.tobytes(), [0, *ends.tolist()]
    return [raw[start:end] for start, end in pairwise(starts)]


def _slots_for(count: int) -> NDArray[np.uint64]:
    return np.zeros(1 << (2 * max(count, 1)).bit_length(), np.uint64)


def _shift_ids(found: NDArray[np.int32], by: int) -> NDArray[np.int32]:
    np.add(found, np.int32(by), out=found, where=found >= 0)
    return found
