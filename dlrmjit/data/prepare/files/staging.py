"""Columns in the work folder of a preparation, in flat files in the order of the input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from dlrmjit.data.prepare.files.column_file import Column, FlatFile, JoinedFiles
from dlrmjit.data.prepare.layout import Layout
from dlrmjit.files import move_work_file, remove_work_file

_LABELS = "labels"
_TYPES = {"words": np.uint32, "lengths": np.int32, "bytes": np.uint8, "counts": np.int32}


class Staging:
    """Parsed columns: labels (uint8 or float32), dense (int32 or float64), then categorical ones.

    A categorical value is a 32-bit hash, or text: the length of each value (int32) and the bytes
    of all. A multi-valued column also has the number of values of each row. Encoding turns hashes
    or text into ids (int32), one per value. Parsed columns are in ``parts``, whose rows follow
    each other.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder, self.layout = folder, layout
        self.parts = 1
        self._spare: list[Path] = []

    def parsed_files(self, part: int = 0) -> list[FlatFile]:
        """Return the files that parsing a part fills: labels, dense, and those of each category."""
        layout = self.layout
        names = [_LABELS, *(_dense(i) for i in range(layout.numbers))]
        for j, column in enumerate(layout.categorical):
            if column.bins is None:  # otherwise it is a number
                names += [_counts(j)] if column.is_multi else []
                names += self._raw(j)
        names += self._raw(layout.lists) if layout.has_list_column else []
        return [self._file(_of_part(name, part), self._type(name)) for name in names]

    def _raw(self, j: int) -> list[str]:
        """Return the names of the files to encode of a category."""
        return [f"{j}.lengths", f"{j}.bytes"] if self.layout.has_schema else [f"{j}.words"]

    def raw_files(self, j: int) -> list[Column]:
        """Return the files to encode of a category: hashes, or lengths and bytes of texts."""
        return [self._parsed(name) for name in self._raw(j)]

    def labels(self) -> Column:
        """Return the label column."""
        return self._parsed(_LABELS)

    def dense(self, i: int) -> Column:
        """Return the ``i``-th column of numbers: dense ones, then those that are only binned."""
        return self._parsed(_dense(i))

    def counts(self, j: int) -> Column:
        """Return the number of values of each row of a multi-valued column."""
        return self._parsed(_counts(j))

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

    def encoded_files(self) -> list[Column]:
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
            if isinstance(first, FlatFile):
                first.close()
                self._spare.append(first.path)
            else:
                first.remove()
            for file in others:
                file.remove()

    def drop_spare(self) -> None:
        """Delete the released files that no ids were written to."""
        while self._spare:
            remove_work_file(self._spare.pop())

    def drop_encoded(self) -> None:
        """Delete the encoded columns after they were written to the set."""
        for file in self.encoded_files():
            file.remove()

    def _type(self, name: str) -> np.dtype[Any]:
        """Return the type of a parsed column, by the name of its file."""
        of_numbers = self.layout.dense_type if name.startswith("dense") else self.layout.label_type
        return np.dtype(_TYPES.get(name.partition(".")[2], of_numbers))

    def _parsed(self, name: str) -> Column:
        """Return a parsed column of all parts."""
        if self.parts == 1:
            return self._file(name, self._type(name))
        paths = [self.folder / _of_part(name, part) for part in range(self.parts)]
        return JoinedFiles(paths, self._type(name))

    def _file(self, name: str, dtype: DTypeLike) -> FlatFile:
        return FlatFile(self.folder / name, dtype)


def _dense(i: int) -> str:
    return f"dense{i}"


def _counts(j: int) -> str:
    return f"{j}.counts"


def _of_part(name: str, part: int) -> str:
    """Return the name of a part's file; one process has one part."""
    return f"{name}@{part}" if part else name


def slices(rows: int, size: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of consecutive slices of ``range(first, rows)``."""
    for start in range(first, rows, size):
        yield start, min(start + size, rows)
