"""Columns in the work folder of a preparation, in flat files in the order of the input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from dlrmjit.data.prepare.files.column_file import FlatFile
from dlrmjit.data.prepare.layout import Layout
from dlrmjit.files import move_work_file, remove_work_file


class Staging:
    """Parsed columns: labels (uint8 or float32), dense (int32 or float64), then categorical ones.

    A categorical value is a 32-bit hash, or text: the length of each value (int32) and the bytes
    of all. A multi-valued column also has the number of values of each row. Encoding turns hashes
    or text into ids (int32), one per value.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder, self.layout = folder, layout
        self._spare: list[Path] = []

    def parsed_files(self) -> list[FlatFile]:
        """Return the files that parsing fills: labels, dense, and those of each category."""
        return [
            self.labels(),
            *(self.dense(i) for i in range(self.layout.numbers)),
            *(file for j in range(len(self.layout.categorical)) for file in self._category(j)),
            *(self.raw_files(self.layout.lists) if self.layout.has_list_column else ()),
        ]

    def _category(self, j: int) -> list[FlatFile]:
        if self.layout.categorical[j].bins is not None:
            return []  # a number
        counts = [self.counts(j)] if self.layout.categorical[j].is_multi else []
        return [*counts, *self.raw_files(j)]

    def raw_files(self, j: int) -> list[FlatFile]:
        """Return the files to encode of a category: hashes, or lengths and bytes of texts."""
        if self.layout.has_schema:
            return [self._file(f"{j}.lengths", np.int32), self._file(f"{j}.bytes", np.uint8)]
        return [self._file(f"{j}.words", np.uint32)]

    def labels(self) -> FlatFile:
        """Return the label column."""
        return self._file("labels", np.dtype(self.layout.label_type))

    def dense(self, i: int) -> FlatFile:
        """Return the ``i``-th column of numbers: dense ones, then those that are only binned."""
        return self._file(f"dense{i}", np.dtype(self.layout.dense_type))

    def counts(self, j: int) -> FlatFile:
        """Return the number of values of each row of a multi-valued column."""
        return self._file(f"{j}.counts", np.int32)

    def ids(self, j: int) -> FlatFile:
        """Return the ids of the ``j``-th categorical column."""
        return self._file(f"{j}.ids", np.int32)

    def new_ids(self, j: int, values: int) -> FlatFile:
        """Return a file for the ids of the ``j``-th categorical column, with any contents.

        It is a file of raw values that were encoded, if there is one: to write over its pages is
        faster than to have the system find new ones.
        """
        with suppress(IndexError):
            move_work_file(self._spare.pop(), self.folder / f"{j}.ids")
        file = self.ids(j)
        file.cut(values)
        return file

    def list_numbers(self) -> FlatFile:
        """Return the number of each row's list; lists are numbered as they first appear."""
        return self._file("lists.ids", np.int32)

    def vocabulary(self, j: int) -> Path:
        """Return the path of a category's vocabulary."""
        return self.folder / f"{j}.vocabulary.{'npz' if self.layout.has_schema else 'npy'}"

    def encoded_files(self) -> list[FlatFile]:
        """Return the files of encoded columns: labels, dense, ids, counts."""
        return [
            self.labels(),
            *(self.dense(i) for i in range(self.layout.numbers)),
            *(self.ids(j) for j in range(len(self.layout.categorical))),
            *(self.counts(j) for j in self.layout.multi),
        ]

    def drop_raw(self, j: int) -> None:
        """Release the raw values of a category after it was encoded; numbers are used later."""
        columns = self.layout.categorical
        if j == len(columns) or columns[j].bins is None:
            first, *others = self.raw_files(j)
            first.close()
            self._spare.append(first.path)
            _drop(others)

    def drop_spare(self) -> None:
        """Delete the released files that no ids were written to."""
        while self._spare:
            remove_work_file(self._spare.pop())

    def drop_encoded(self) -> None:
        """Delete the encoded columns after they were written to the set."""
        _drop(self.encoded_files())

    def _file(self, name: str, dtype: type | np.dtype[np.generic]) -> FlatFile:
        return FlatFile(self.folder / name, dtype)


def _drop(files: list[FlatFile]) -> None:
    for file in files:
        file.close()
        remove_work_file(file.path)


def slices(rows: int, size: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of consecutive slices of ``range(first, rows)``."""
    for start in range(first, rows, size):
        yield start, min(start + size, rows)
