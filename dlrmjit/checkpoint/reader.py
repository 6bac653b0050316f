"""Load checkpoints: as lazy arrays, or streamed into the arrays that a model already has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.checkpoint.manifest import ArrayRecord, Part, read_manifest
from dlrmjit.checkpoint.reshard import copy_overlap, overlap_of
from dlrmjit.checkpoint.safetensors_file import (
    FileRecord,
    Storable,
    check_file,
    check_size,
    read_rows,
)
from dlrmjit.errors import CheckpointError
from dlrmjit.files import locate

Array = NDArray[Any]


class StoredArrays(Mapping[str, Array]):
    """The arrays of a checkpoint, as a mapping that reads an array on every access."""

    def __init__(self, directory: Path, records: Mapping[str, ArrayRecord]) -> None:
        self._directory = directory
        self._records = records

    def __getitem__(self, name: str) -> Array:
        record = self._records[name]
        target = np.empty(record.shape, record.dtype)
        self._read(name, target)
        return target

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, name: object) -> bool:
        return name in self._records

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name, without reading an array."""
        return {name: record.shape for name, record in self._records.items()}

    @property
    def split(self) -> bool:
        """Whether some array is stored as Split-BF16."""
        return any(record.split for record in self._records.values())

    def check(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """Raise CheckpointError unless all ``wanted`` arrays are stored with these shapes."""
        for name, shape in wanted.items():
            if name not in self._records:
                raise CheckpointError(
                    f"{self._directory}: the model has {name}, but the checkpoint does not"
                )
            stored = self._records[name].shape
            if stored != tuple(shape):
                raise CheckpointError(
                    f"{self._directory}: {name} is {stored} in the checkpoint, but "
                    f"{tuple(shape)} in the model"
                )

    def read_into(self, targets: Mapping[str, Storable]) -> None:
        """Fill ``targets`` (arrays or views) by name, a block of rows at a time.

        Values are converted between float32 and Split-BF16 where the two sides differ. All names
        and shapes are checked before the first array is overwritten.

        Raises CheckpointError for a missing array, another shape or another dtype.
        """
        self.check({name: target.shape for name, target in targets.items()})
        for name, target in targets.items():
            if target.dtype != self._records[name].dtype:
                raise CheckpointError(
                    f"{self._directory}: {name} is {self._records[name].dtype} in the checkpoint, "
                    f"but {target.dtype} in the model"
                )
            self._read(name, target)

    def read_shard(self, name: str, target: Storable, wanted: Part) -> None:
        """Fill ``target`` with the rows and columns ``wanted`` of a table.

        Only files that contain some of them are read. The table's shape is not checked; an array
        of one value per row (M,) counts as one column.
        """
        shape = self._records[name].shape
        width = shape[1] if len(shape) > 1 else 1
        for part in self._records[name].parts:
            overlap = overlap_of(part, wanted, width)
            if overlap is not None:
                copy_overlap(self._directory / part.file, name, target, overlap)

    def _read(self, name: str, target: Storable) -> None:
        for part in self._records[name].parts:
            rows = part.of(target) if target.ndim else target
            read_rows(self._directory / part.file, name, rows)


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes
    ----------
    path
        The directory that was read.
    model_config, progress
        As they were saved, tuples as lists.
    state, optimizer
        Lazy mappings from names to arrays.
    """

    path: Path
    model_config: Mapping[str, Any]
    progress: Mapping[str, Any]
    state: StoredArrays
    optimizer: StoredArrays


def open_checkpoint(path: str | os.PathLike[str], *, verify: bool = True) -> Checkpoint:
    """Open a checkpoint directory; ``verify`` reads all files to compare their checksums.

    Raises
    ------
    CheckpointError
        If the directory is missing, not a complete checkpoint, or of another version.
    """
    directory = locate(Path(path).resolve())
    if not directory.exists():
        raise CheckpointError(f"{path}: no such checkpoint directory")
    if not directory.is_dir():
        raise CheckpointError(f"{path}: a checkpoint is a directory, but this is a file")
    content = read_manifest(directory)
    _check_files(directory, content.files, verify)
    return Checkpoint(
        path=directory,
        model_config=content.model_config,
        progress=content.progress,
        state=StoredArrays(directory, content.state),
        optimizer=StoredArrays(directory, content.optimizer),
    )


def _check_files(directory: Path, files: Mapping[str, FileRecord], verify: bool) -> None:
    for name, record in files.items():
        (check_file if verify else check_size)(directory / name, record)
