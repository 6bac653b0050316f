"""Raw values of one categorical column, read from the work folder slice by slice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from dlrmjit_kernels.data.vocabulary import hash_values
from numpy.typing import NDArray

from dlrmjit.data.prepare.files.column_file import Column, FlatFile
from dlrmjit.data.prepare.files.staging import Staging, slices
from dlrmjit.data.prepare.files.vocabularies import HashVocabulary, TextVocabulary, hash_to_rows

_SLICE = 1 << 18
_SLICE_BYTES = 8 << 20


class RawColumn(Protocol):
    """The values of a column, whether hashes or texts."""

    def __len__(self) -> int:
        """Number of values."""

    def encode(self, budget: int, ids: FlatFile) -> HashVocabulary | TextVocabulary:
        """Write the ids of all values, in order of first appearance; return the vocabulary.

        Raises VocabularyFullError if it needs more than ``budget`` bytes.
        """

    def hash(self, rows: int, ids: FlatFile, *, has_missing_row: bool) -> None:
        """Write a hash of every value modulo ``rows``.

        With ``has_missing_row``, row 0 is for missing values, and others share the rest.
        """

    def __enter__(self) -> RawColumn: ...

    def __exit__(self, *_: object) -> None: ...


def open_raw(staging: Staging, column: int, max_ind_range: int) -> RawColumn:
    """Return the raw values of a column; ``max_ind_range`` > 0 takes hashes modulo it."""
    files = staging.raw_files(column)
    if staging.layout.has_schema:
        return _TextColumn(*files)
    return _HashColumn(files[0], max_ind_range)


class _HashColumn:
    def __init__(self, hashes: Column, max_ind_range: int) -> None:
        self._hashes, self._limit = hashes, max_ind_range

    def __len__(self) -> int:
        return len(self._hashes)

    def _slices(self, limit: int) -> Iterator[tuple[int, NDArray[np.uint32]]]:
        values = np.empty(_SLICE, np.uint32)
        for start, end in slices(len(self), _SLICE):
            part = values[: end - start]
            self._hashes.read(start, part)
            if limit:
                part %= np.uint32(limit)
            yield start, part

    def encode(self, budget: int, ids: FlatFile) -> HashVocabulary:
        vocabulary, part_ids = HashVocabulary(budget), np.empty(_SLICE, np.int32)
        for start, part in self._slices(self._limit):
            vocabulary.encode(part, part_ids[: len(part)])
            ids.write(start, part_ids[: len(part)])
        return vocabulary

    def hash(self, rows: int, ids: FlatFile, *, has_missing_row: bool) -> None:
        part_ids = np.empty(_SLICE, np.int32)
        for start, part in self._slices(0):
            hash_values(part, rows, part_ids[: len(part)])
            ids.write(start, part_ids[: len(part)])

    def __enter__(self) -> _HashColumn:
        return self

    def __exit__(self, *_: object) -> None:
        self._hashes.close()


class _TextColumn:
    def __init__(self, lengths: Column, text: Column) -> None:
        self._lengths, self._text = lengths, text

    def __len__(self) -> int:
        return len(self._lengths)

    def _slices(self) -> Iterator[tuple[int, NDArray[np.int32], NDArray[np.uint8]]]:
        """Yield consecutive values of bounded bytes, or a single longer value."""
        lengths, first_byte = np.empty(_SLICE, np.int32), 0
        for start, end in slices(len(self), _SLICE):
            part = lengths[: end - start]
            self._lengths.read(start, part)
            ends = np.cumsum(part, dtype=np.int64)
            done = 0
            while done < len(part):
                before = int(ends[done - 1]) if done else 0
                last = int(np.searchsorted(ends, before + _SLICE_BYTES, side="right"))
                last = max(last, done + 1)
                text = np.empty(int(ends[last - 1]) - before, np.uint8)
                self._text.read(first_byte, text)
                yield start + done, part[done:last], text
                first_byte, done = first_byte + len(text), last

    def encode(self, budget: int, ids: FlatFile) -> TextVocabulary:
        vocabulary, part_ids = TextVocabulary(budget), np.empty(_SLICE, np.int32)
        for start, lengths, text in self._slices():
            vocabulary.encode(text, lengths, part_ids[: len(lengths)])
            ids.write(start, part_ids[: len(lengths)])
        return vocabulary

    def hash(self, rows: int, ids: FlatFile, *, has_missing_row: bool) -> None:
        part_ids = np.empty(_SLICE, np.int32)
        for start, lengths, text in self._slices():
            hash_to_rows(text, lengths, rows, part_ids[: len(lengths)], has_missing_row)
            ids.write(start, part_ids[: len(lengths)])

    def __enter__(self) -> _TextColumn:
        return self

    def __exit__(self, *_: object) -> None:
        self._lengths.close()
        self._text.close()
