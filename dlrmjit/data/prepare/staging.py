"""The work folder of a preparation: raw columns in the order of the input, one file each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.criteo_text import HASHES, INTEGERS
from dlrmjit.data.prepare.columns import FlatFile

DENSE_NAMES = tuple(f"I{i}" for i in range(1, INTEGERS + 1))
CATEGORICAL_NAMES = tuple(f"C{i}" for i in range(1, HASHES + 1))


class Staging:
    """Raw columns: ``label`` uint8, I1 to I13 int32, C1 to C26 uint32; later their ids, int32."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def raw_files(self) -> list[FlatFile]:
        """The columns as parsed: label, dense, raw categorical."""
        return [
            self.labels(),
            *(self.dense(i) for i in range(INTEGERS)),
            *(self.raw(j) for j in range(HASHES)),
        ]

    def labels(self) -> FlatFile:
        """The label column."""
        return FlatFile(self.folder / "label.u1", np.uint8)

    def dense(self, i: int) -> FlatFile:
        """The ``i``-th dense column."""
        return FlatFile(self.folder / f"{DENSE_NAMES[i]}.i4", np.int32)

    def raw(self, j: int) -> FlatFile:
        """The ``j``-th categorical column as in the text."""
        return FlatFile(self.folder / f"{CATEGORICAL_NAMES[j]}.u4", np.uint32)

    def ids(self, j: int) -> FlatFile:
        """The ``j``-th categorical column, numbered."""
        return FlatFile(self.folder / f"{CATEGORICAL_NAMES[j]}.ids", np.int32)

    def numbered_files(self) -> list[FlatFile]:
        """The columns as they go into the set: label, dense, ids."""
        return [
            self.labels(),
            *(self.dense(i) for i in range(INTEGERS)),
            *(self.ids(j) for j in range(HASHES)),
        ]

    def drop_numbered(self) -> None:
        """Delete the columns that have gone into the set."""
        for file in self.numbered_files():
            file.close()
            file.path.unlink()


def slices(rows: int, size: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """(start, end) of consecutive slices of ``range(first, rows)``."""
    for start in range(first, rows, size):
        yield start, min(start + size, rows)


def write_row_block(files: list[FlatFile], row: int, columns: list[NDArray[Any]]) -> None:
    """Write one array per file from ``row`` on."""
    for file, values in zip(files, columns, strict=True):
        file.write(row, values)
