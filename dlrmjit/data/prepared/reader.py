"""A prepared set on disk, opened for reading: its manifest and its splits, mapped into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.dataset import Dataset, MultiHot
from dlrmjit.data.prepare.files.vocabularies import texts_of
from dlrmjit.data.prepared.manifest import NAME, Manifest
from dlrmjit.data.prepared.preprocessing import Preprocessing
from dlrmjit.data.stored.npy import map_array
from dlrmjit.data.stored.vocabulary import read_hashes, read_texts
from dlrmjit.errors import DataError


def is_prepared_set(path: str | Path) -> bool:
    """Return whether ``path`` is a folder with a manifest."""
    return (Path(path) / NAME).is_file()


class PreparedSet:
    """The set in ``folder``. Raises DataError if it is incomplete or was changed."""

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
            raise DataError(f"{self.folder} has no {split} split; it has {known}")
        rows = self.manifest.splits[split]
        single = sum(not column.is_multi for column in self.manifest.categorical)
        labels = self._array(split, "labels", rows)
        return Dataset(
            labels=labels,
            soft_labels=labels.dtype.kind == "f",
            dense=self._array(split, "dense", rows, len(self.manifest.dense)),
            ids=self._array(split, "ids", rows, single),
            table_rows=self.manifest.table_rows,
            log_transform=self.manifest.transform == "log1p",
            has_counts=self.manifest.transform == "log1p",
            multi=tuple(self._multi(split, rows)),
            origin=str(self.folder / split),
            preprocessing=Preprocessing.of_set(self.folder, self.manifest),
            sample_weights=self._weights(split, rows),
            lists=self._lists(split),
        )

    table = dataset
    """Deprecated name of :meth:`dataset`."""

    def vocabulary(self, column: int) -> NDArray[np.uint32] | None:
        """Return the hashes of a column of Criteo data by id, or None if they have no vocabulary.

        Raises DataError if the file does not match the manifest.
        """
        path = self._vocabulary_path(column)
        rows = self.manifest.categorical[column].rows
        return None if path is None else read_hashes(path, path, rows)

    def text_vocabulary(self, column: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
        """Return the bytes of a column's texts by id and the end of each, or None if hashed.

        Raises DataError if the file does not match the manifest.
        """
        path = self._vocabulary_path(column)
        if path is None:
            return None
        return read_texts(path, path, self.manifest.categorical[column].rows)

    def texts(self, column: int) -> list[bytes]:
        """Return the texts of a column by id, an empty list if they were hashed."""
        vocabulary = self.text_vocabulary(column)
        return [] if vocabulary is None else texts_of(*vocabulary)

    def _vocabulary_path(self, column: int) -> Path | None:
        name = self.manifest.categorical[column].vocabulary
        if not name:
            return None
        self.manifest.check_file(self.folder, name)
        return self.folder / name

    def _multi(self, split: str, rows: int) -> list[tuple[int, MultiHot]]:
        columns = []
        for s, column in enumerate(self.manifest.categorical):
            if column.is_multi:
                offsets = self._array(split, f"offsets_{s}", rows + 1)
                ids = self._array(split, f"values_{s}", int(offsets[-1]))
                if offsets[0] != 0:
                    raise DataError(
                        f"{self.folder / split / f'offsets_{s}.npy'} starts at {offsets[0]}, not "
                        "at 0; it is damaged"
                    )
                columns.append((s, MultiHot(ids, offsets)))
        return columns

    def _weights(self, split: str, rows: int) -> NDArray[Any] | None:
        has_weights = f"{split}/weights.npy" in self.manifest.files
        return self._array(split, "weights", rows) if has_weights else None

    def _lists(self, split: str) -> NDArray[np.int64] | None:
        name = f"{split}/lists.npy"
        return map_array(self.folder / name) if name in self.manifest.files else None

    def _array(self, split: str, name: str, *shape: int) -> NDArray[Any]:
        path = self.folder / split / f"{name}.npy"
        if path.relative_to(self.folder).as_posix() not in self.manifest.files:
            raise DataError(f"{self.folder / NAME} does not list {path.name} of the {split} split")
        array = map_array(path)
        if array.shape != shape:
            raise DataError(
                f"{path} has shape {array.shape}, but {self.folder / NAME} says {shape}"
            )
        return array
