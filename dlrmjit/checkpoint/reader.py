"""Load checkpoints: as lazy arrays, or streamed into the arrays that a model already has."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit.checkpoint.file_record import FileRecord, check_file, check_size
from dlrmjit.checkpoint.manifest import ArrayRecord, Manifest, Part, read_manifest
from dlrmjit.checkpoint.open_files import OpenFiles, identity_of, pinned
from dlrmjit.checkpoint.reshard import copy_overlap, overlap_of
from dlrmjit.checkpoint.safetensors_file import Storable, read_rows, tensor_blocks
from dlrmjit.checkpoint.strict import check_parameters
from dlrmjit.errors import CheckpointError
from dlrmjit.files import locate, refuse_special

Array = NDArray[Any]
_PATIENCE, _PAUSE = 10.0, 0.01  # seconds


class StoredArrays(Mapping[str, Array]):
    """The arrays of a checkpoint, as a mapping that reads an array on every access."""

    def __init__(
        self, directory: Path, files: OpenFiles, records: Mapping[str, ArrayRecord]
    ) -> None:
        self._directory, self._files = directory, files
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

    def check(self, wanted: Mapping[str, tuple[int, ...]], *, strict: bool = False) -> None:
        """Raise CheckpointError unless all ``wanted`` arrays are stored with these shapes.

        If ``strict``, no others may be stored.
        """
        stored = self.shapes
        if not strict:
            stored = {name: shape for name, shape in stored.items() if name in wanted}
        check_parameters(self._directory, stored, wanted)

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
                copy_overlap(self._files[part.file], name, target, overlap)

    def read_rows(self, name: str, target: Storable, rows: NDArray[np.int64]) -> None:
        """Fill ``target`` with some ``rows`` of an array, given in ascending order.

        Only files that contain some of them are read, a block at a time. The array is stored by
        consecutive rows.
        """
        if not len(rows):
            return
        target = target.reshape(len(target), -1)
        for part in self._records[name].parts:
            of_part = range(part.start, part.stop, part.step)
            if not np.any((rows >= part.start) & (rows < part.stop)):
                continue
            for start, values in tensor_blocks(self._files[part.file], name):
                first, after = of_part[start], of_part[start] + len(values)
                low, high = np.searchsorted(rows, [first, after])
                block = values.reshape(len(values), -1)
                target[low:high] = block[rows[low:high] - first]

    def _read(self, name: str, target: Storable) -> None:
        for part in self._records[name].parts:
            rows = part.of(target) if target.ndim else target
            read_rows(self._files[part.file], name, rows)


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
        Lazy mappings from names to arrays, which stay those of this checkpoint when another
        takes its place.
    digest
        A digest of the manifest, which tells this checkpoint from others.
    files, file_names
        All files that the manifest lists, open, and their names.
    """

    path: Path
    model_config: Mapping[str, Any]
    progress: Mapping[str, Any]
    state: StoredArrays
    optimizer: StoredArrays
    digest: str = ""
    files: OpenFiles | None = None
    file_names: tuple[str, ...] = ()

    def read_file(self, name: str) -> bytes:
        """Return the contents of one of ``file_names``."""
        assert self.files is not None
        with open(self.files[name], "rb") as file:
            return file.read()


def open_checkpoint(path: str | os.PathLike[str], *, verify: bool = True) -> Checkpoint:
    """Open a checkpoint directory; ``verify`` reads all files to compare their checksums.

    Raises
    ------
    CheckpointError
        If the directory is missing, not a complete checkpoint, or of another version.
    """
    refuse_special(path, CheckpointError)
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        target = Path(path).resolve()
        directory = locate(target)
        with pinned(directory) as identity:
            try:
                opened = _open(path, directory)
            except CheckpointError:
                if identity == identity_of(directory) and directory == locate(target):
                    raise
                time.sleep(_PAUSE)  # a save replaced it meanwhile
                continue
            if identity == identity_of(directory):
                _check_files(opened.files, opened.content.files, verify)
                return _checkpoint(directory, opened)
    raise CheckpointError(f"{path}: the checkpoint was replaced again and again; load it later")


class _Opened(NamedTuple):
    content: Manifest
    files: OpenFiles


def _open(path: str | os.PathLike[str], directory: Path) -> _Opened:
    if not directory.exists():
        raise CheckpointError(f"{path}: no such checkpoint directory")
    if not directory.is_dir():
        raise CheckpointError(f"{path}: a checkpoint is a directory, but this is a file")
    content = read_manifest(directory)
    try:
        return _Opened(content, OpenFiles(directory, content.files))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{error.filename}: the manifest lists this file, but it is missing"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be read: {error.strerror}") from None


def _checkpoint(directory: Path, opened: _Opened) -> Checkpoint:
    content, files = opened
    return Checkpoint(
        path=directory,
        model_config=content.model_config,
        progress=content.progress,
        state=StoredArrays(directory, files, content.state),
        optimizer=StoredArrays(directory, files, content.optimizer),
        digest=hashlib.sha256(content.to_json().encode()).hexdigest(),
        files=files,
        file_names=tuple(content.files),
    )


def _check_files(files: OpenFiles, records: Mapping[str, FileRecord], verify: bool) -> None:
    for name, record in records.items():
        (check_file if verify else check_size)(files[name], record)
