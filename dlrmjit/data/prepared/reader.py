"""A prepared set on disk, opened for reading: its manifest and its splits as mapped tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.dataset import Dataset, MultiHot
from dlrmjit.data.prepare.files.vocabularies import texts_of
from dlrmjit.data.prepared.manifest import NAME, Manifest
from dlrmjit.errors import DataError


def is_prepared_set(path: str | Path) -> bool:
    """Whether ``path`` looks like a prepared set."""
    return (Path(path) / NAME).is_file()


class PreparedSet:
    """The set in ``folder``; raises DataError when it is not whole or was changed."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.read(self.folder)
        self.manifest.check_sizes(self.folder)

    def dataset(self, split: str) -> Dataset:
        """Return the rows of ``train``, ``test`` or ``validation``, mapped into memory.

        Raises DataError for a split that the set lacks, or a damaged file.
        """
        if split not in self.manifest.splits:
            known = ", ".join(self.manifest.splits)
            raise DataError(f"{self.folder} has no {split} split, only {known}")
        rows = self.manifest.splits[split]
        single = sum(not column.is_multi for column in self.manifest.categorical)
        return Dataset(
            labels=self._array(split, "labels", rows),
            dense=self._array(split, "dense", rows, len(self.manifest.dense)),
            ids=self._array(split, "ids", rows, single),
            table_rows=self.manifest.table_rows,
            log_transform=self.manifest.transform == "log1p",
            multi=tuple(self._multi(split, rows)),
            origin=str(self.folder / split),
        )

    def vocabulary(self, column: int) -> NDArray[np.uint32] | None:
        """The words of a categorical column of Criteo's by id, where they were numbered.

        Raises DataError when they are not those that the set was made with.
        """
        path = self._vocabulary_path(column)
        return None if path is None else np.load(path)

    def text_vocabulary(self, column: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
        """The bytes of a column's texts by id, and where each ends, where they were numbered.

        Raises DataError when they are not those that the set was made with.
        """
        path = self._vocabulary_path(column)
        if path is None:
            return None
        with np.load(path) as kept:
            return kept["bytes"], kept["ends"]

    def texts(self, column: int) -> list[bytes]:
        """The texts of a column by id; none where they were hashed."""
        kept = self.text_vocabulary(column)
        return [] if kept is None else texts_of(*kept)

    def _vocabulary_path(self, column: int) -> Path | None:
        name = self.manifest.categorical[column].vocabulary
        if not name:
            return None
        self.manifest.check_file(self.folder, name)
        return self.folder / name

    def _multi(self, split: str, rows: int) -> list[tuple[int, MultiHot]]:
        found = []
        for s, column in enumerate(self.manifest.categorical):
            if column.is_multi:
                offsets = self._array(split, f"offsets_{s}", rows + 1)
                ids = self._array(split, f"values_{s}", int(offsets[-1]))
                found.append((s, MultiHot(ids, offsets)))
        return found

    def _array(self, split: str, name: str, *shape: int) -> NDArray[Any]:
        path = self.folder / split / f"{name}.npy"
        try:
            # what is empty cannot be mapped
            array: NDArray[Any] = np.load(path, mmap_mode="r" if 0 not in shape else None)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}") from None
        if array.shape != shape:
            raise DataError(
                f"{path} has shape {array.shape}, but {self.folder / NAME} says {shape}"
            )
        return array.view(np.ndarray)
