"""The manifest of a checkpoint: its arrays and files, the model's configuration, the progress.

It is the last file written and the first one read, so a directory with a manifest is complete.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dlrmjit.checkpoint.file_record import SHA256, FileRecord, whole
from dlrmjit.checkpoint.safetensors_file import DTYPES
from dlrmjit.errors import CheckpointError
from dlrmjit.files import is_possible_shape, parse_json
from dlrmjit.version import __version__

NAME = "manifest.json"
FORMAT = "dlrmjit-checkpoint"
VERSION, NEWER = 1, 2
"""Versions of the format: the newer one has files whose checksum is not a SHA-256."""

DIGEST = "manifest_sha256"
"""Key of the digest of the manifest's text, in which the digest itself is replaced by zeros."""

_NO_DIGEST = "0" * 64
_DIGEST_FIELD = re.compile(rf'"{DIGEST}": "([0-9a-f]{{64}})"')
_KEYS_BEFORE_DIGESTS = {
    *("format", "version", "writer", "model_config", "progress", "state", "optimizer", "files"),
}
_MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class Part:
    """Rows ``start`` to ``stop`` of an array, and the file that contains them under its name.

    A part of a sharded table has every ``step``-th of these rows, or only the columns
    ``first_col`` to ``last_col`` (None: the last).
    """

    file: str
    start: int
    stop: int
    step: int = 1
    first_col: int = 0
    last_col: int | None = None

    def of(self, array: Any) -> Any:
        """Return the view of these rows and columns of an array with at least one axis."""
        rows = array[self.start : self.stop : self.step]
        return rows if self._has_all_columns else rows[:, self.first_col : self.last_col]

    @property
    def _has_all_columns(self) -> bool:
        return self.first_col == 0 and self.last_col is None


@dataclass(frozen=True)
class ArrayRecord:
    """An array: its shape, its NumPy dtype and its parts in the order of their rows.

    If ``split``, it is float32 and its files store the high and low 16 bits as two tensors.
    """

    shape: tuple[int, ...]
    dtype: str
    parts: tuple[Part, ...]
    split: bool = False

    @property
    def rows(self) -> int:
        """Length of the first axis; 1 for an array without axes."""
        return self.shape[0] if self.shape else 1

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Manifest:
    """Everything about a checkpoint except the values of its arrays."""

    model_config: Mapping[str, Any]
    progress: Mapping[str, Any]
    state: Mapping[str, ArrayRecord] = field(default_factory=dict)
    optimizer: Mapping[str, ArrayRecord] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of the manifest file, which has its own digest.

        Raises TypeError where the configuration or the progress is not JSON-ready.
        """
        is_newer = any(record.kind != SHA256 for record in self.files.values())
        version = NEWER if is_newer else VERSION
        head = {"format": FORMAT, "version": version, "writer": f"dlrmjit {__version__}"}
        files = {name: record.to_dict() for name, record in self.files.items()}
        content = {**head, DIGEST: _NO_DIGEST, **asdict(self), "files": files}
        text = json.dumps(content, indent=1) + "\n"
        return _with_digest(text, _digest(text))


def read_manifest(directory: Path) -> Manifest:
    """Read and check the manifest of a checkpoint directory.

    Raises
    ------
    CheckpointError
        If it is missing, not JSON, of another format or version, or incomplete.
    """
    path = directory / NAME
    try:
        text = _read_text(path)
    except FileNotFoundError:
        raise CheckpointError(
            f"{directory}: not a checkpoint directory: it has no {NAME}"
        ) from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    content = parse_json(text, path, CheckpointError, finite=False)  # progress may have infinity
    _check_format(path, content)
    _check_digest(path, text, content)
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path}: an incomplete manifest: {error!r}") from error


def _read_text(path: Path) -> str:
    with open(path, "rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES} bytes")
    return content.decode("utf-8")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _with_digest(text: str, digest: str) -> str:
    """Return the text with another digest in the place of the first."""
    return _DIGEST_FIELD.sub(f'"{DIGEST}": "{digest}"', text, count=1)


def _check_digest(path: Path, text: str, content: Mapping[str, Any]) -> None:
    """Refuse a manifest that is not as it was written; older ones have no digest."""
    field_ = _DIGEST_FIELD.search(text)
    if field_ is not None:
        is_same = _digest(_with_digest(text, _NO_DIGEST)) == field_[1]
    else:
        is_same = set(content) <= _KEYS_BEFORE_DIGESTS
    if not is_same:
        raise CheckpointError(
            f"{path}: its digest is not that of its text: it was damaged or changed after it was "
            "saved; restore it from a copy, or use another checkpoint"
        )


def _check_format(path: Path, content: object) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not the manifest of a dlrmjit checkpoint")
    if content.get("version") not in (VERSION, NEWER):
        raise CheckpointError(
            f"{path}: format version {content.get('version')!r}, but this dlrmjit reads versions "
            f"{VERSION} and {NEWER}; use the release that wrote it ({content.get('writer')})"
        )


def _parse(content: Mapping[str, Any]) -> Manifest:
    files = {
        _file_name(name): FileRecord.from_dict(facts) for name, facts in content["files"].items()
    }
    manifest = Manifest(
        model_config=_object(content, "model_config"),
        progress=_object(content, "progress"),
        state={name: _array(name, value) for name, value in content["state"].items()},
        optimizer={name: _array(name, value) for name, value in content["optimizer"].items()},
        files=files,
    )
    for name, record in (*manifest.state.items(), *manifest.optimizer.items()):
        stored = sum(files[file].bytes for file in {part.file for part in record.parts})
        if record.nbytes > stored:
            raise ValueError(f"{name} has {record.nbytes} bytes, its files only {stored}")
    return manifest


def _object(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content[key]
    if not isinstance(value, dict):
        raise ValueError(f"{key} is no object")
    return value


def _file_name(name: str) -> str:
    """Return ``name``; raise ValueError if it refers outside the manifest's directory."""
    if Path(name).name != name:
        raise ValueError(f"{name!r} is not a plain file name")
    return name


def _array(name: str, value: Mapping[str, Any]) -> ArrayRecord:
    parts = tuple(_part(part) for part in value["parts"])
    shape, split = tuple(whole(n) for n in value["shape"]), bool(value.get("split", False))
    record = ArrayRecord(shape, str(value["dtype"]), parts, split)
    if record.dtype not in DTYPES:
        raise ValueError(f"{name} has the unknown dtype {record.dtype!r}")
    if not is_possible_shape(record.shape, np.dtype(record.dtype).itemsize):
        raise ValueError(f"{name} has the shape {record.shape}, which no array has")
    if not _covers(record):
        raise ValueError(f"the parts of {name} do not cover its {record.rows} rows")
    return record


def _part(value: Mapping[str, Any]) -> Part:
    last = value.get("last_col")
    return Part(
        value["file"],
        whole(value["start"]),
        whole(value["stop"]),
        whole(value.get("step", 1)),
        whole(value.get("first_col", 0)),
        None if last is None else whole(last),
    )


def _covers(record: ArrayRecord) -> bool:
    """Return whether the parts cover the array: consecutive rows, or as many elements as it has."""
    parts = record.parts
    if all(part == Part(part.file, part.start, part.stop) for part in parts):
        return [*(p.start for p in parts), record.rows] == [0, *(p.stop for p in parts)]
    width = record.shape[1] if len(record.shape) > 1 else 1
    sizes = []
    for part in parts:
        last = width if part.last_col is None else part.last_col
        if not (0 <= part.first_col < last <= width and 0 <= part.start < part.stop):
            return False
        sizes.append(len(range(part.start, part.stop, part.step)) * (last - part.first_col))
    return max(p.stop for p in parts) == record.rows and sum(sizes) == record.rows * width
