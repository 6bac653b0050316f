"""Values numbered by first appearance within a bound on memory: words of 32 bits, and texts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from dlrmjit_kernels.data.strings import find_or_add_texts, find_texts, insert_texts, select_texts
from dlrmjit_kernels.data.vocabulary import find, find_or_add, insert_known
from numpy.typing import NDArray

from dlrmjit.data.prepare.files.column_file import writing

_FIRST_SLOTS = 1 << 12
_FIRST_BYTES = 1 << 16
_LOAD = 0.6  # of an open-addressing table's slots, beyond which probes get long


class VocabularyFullError(Exception):
    """A vocabulary outgrew its share of the memory; never seen by a caller."""


class HashVocabulary:
    """HashVocabulary of 32 bits, numbered in at most ``budget`` bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.count = 0
        self._known = np.empty(int(_FIRST_SLOTS * _LOAD), np.uint32)
        self._slots = np.zeros(_FIRST_SLOTS, np.uint64)

    @property
    def values(self) -> NDArray[np.uint32]:
        """The values known, by id."""
        return self._known[: self.count]

    def encode(self, values: NDArray[np.uint32], ids: NDArray[np.int32]) -> None:
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

    def save(self, path: Path, kept: NDArray[np.intp] | None) -> None:
        """Write values by id as a ``.npy`` file; of ``kept`` ones, row 0 is the others'."""
        values = self.values
        if kept is not None:
            values = np.concatenate([np.zeros(1, np.uint32), values[kept]])
        with writing(path):
            np.save(path, values)


class TextVocabulary:
    """TextVocabulary, numbered in at most ``budget`` bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.count = 0
        self._ends = np.empty(int(_FIRST_SLOTS * _LOAD), np.int64)
        self._heap = np.empty(_FIRST_BYTES, np.uint8)
        self._slots = np.zeros(_FIRST_SLOTS, np.uint64)

    @property
    def used(self) -> int:
        """Bytes of all texts known."""
        return int(self._ends[self.count - 1]) if self.count else 0

    @property
    def values(self) -> list[bytes]:
        """The texts known, by id."""
        return texts_of(self._heap, self._ends[: self.count])

    def encode(
        self, text: NDArray[np.uint8], lengths: NDArray[np.int32], ids: NDArray[np.int32]
    ) -> None:
        """Write the ids of texts, adding new ones; raises VocabularyFullError."""
        done, at = 0, 0
        while True:
            numbered, size, self.count = find_or_add_texts(
                text[at:],
                lengths[done:],
                self._slots,
                self._heap,
                self._ends,
                self.count,
                self._ends.size,
                ids[done:],
            )
            done, at = done + numbered, at + size
            if done == lengths.size:
                return
            self._grow_for(int(lengths[done]))

    def _grow_for(self, size: int) -> None:
        """Let one more text of ``size`` bytes fit."""
        if self.count == self._ends.size:
            self._grow_slots()
        if self.used + size > self._heap.size:
            self._grow_heap(self.used + size)

    def _grow_slots(self) -> None:
        slots = 2 * self._slots.size
        room = int(slots * _LOAD)
        self._check_budget(8 * slots + 8 * (room + self._ends.size) + self._heap.size)
        self._slots = np.zeros(0, np.uint64)
        ends = np.empty(room, np.int64)
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

    def save(self, path: Path, kept: NDArray[np.intp] | None) -> None:
        """Write the ``bytes`` of all texts and where each of them ends, as an ``.npz`` file.

        Of ``kept`` ones, row 0 is the others' and its text empty.
        """
        heap, ends = self._heap[: self.used], self._ends[: self.count]
        if kept is not None:
            starts = np.concatenate([[0], ends[:-1]])
            chosen_ends = np.zeros(1 + len(kept), np.int64)
            out = np.empty(int((ends - starts)[kept].sum()), np.uint8)
            select_texts(heap, ends, kept.astype(np.int64), out, chosen_ends[1:])
            heap, ends = out, chosen_ends
        with writing(path):
            np.savez(path, bytes=heap, ends=ends)


def find_hash_ids(
    known: NDArray[np.uint32], values: NDArray[np.uint32], *, has_rare_row: bool
) -> NDArray[np.int32]:
    """Ids of ``values`` in a saved vocabulary, -1 for unknown ones.

    ``has_rare_row`` says that row 0 stands for others, so that its value is none.
    """
    slots = _slots_for(len(known))
    first = int(has_rare_row)
    insert_known(known[first:], len(known) - first, slots)
    found = np.empty(len(values), np.int32)
    find(values, slots, -1, found)
    return _shift_ids(found, first)


def find_text_ids(
    known: tuple[NDArray[np.uint8], NDArray[np.int64]],
    text: NDArray[np.uint8],
    lengths: NDArray[np.int32],
    *,
    has_rare_row: bool,
) -> NDArray[np.int32]:
    """The same for texts."""
    heap, ends = known
    first = int(has_rare_row)  # row 0 is empty then: to leave it out moves no byte
    ends = ends[first:]
    slots = _slots_for(len(ends))
    insert_texts(heap, ends, 0, len(ends), slots)
    found = np.empty(len(lengths), np.int32)
    find_texts(text, lengths, slots, heap, ends, -1, found)
    return _shift_ids(found, first)


def texts_of(heap: NDArray[np.uint8], ends: NDArray[np.int64]) -> list[bytes]:
    """TextVocabulary as they are kept, one by one."""
    raw, starts = heap.tobytes(), [0, *ends.tolist()]
    return [raw[start:end] for start, end in pairwise(starts)]


def _slots_for(count: int) -> NDArray[np.uint64]:
    return np.zeros(1 << (2 * max(count, 1)).bit_length(), np.uint64)


def _shift_ids(found: NDArray[np.int32], by: int) -> NDArray[np.int32]:
    found[found >= 0] += np.int32(by)
    return found
