"""One safetensors file: written as a stream from views, read in slices.

The library's own writer wants whole contiguous arrays and a second pass for the checksum. The
format is a length, a JSON header and the bytes, so writing it here costs a few lines and
saves a copy of a table; reading, where a file may be broken, is left to the library.

An array in halves becomes two tensors, ``name.upper`` and ``name.lower``, and is read as one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from dlrmjit.errors import CheckpointError
from dlrmjit.files import create
from dlrmjit.precision import SplitArray

Array = NDArray[Any]
Storable = Array | SplitArray

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
"""NumPy's names of the element types that can be stored, and the format's."""

NAMES = {stored: name for name, stored in DTYPES.items()}

UPPER, LOWER = ".upper", ".lower"
"""What follows the name of an array in halves."""

BLOCK_BYTES = 1 << 26
"""Bytes moved at a time; the largest copy that saving or loading makes."""


@dataclass(frozen=True)
class FileRecord:
    """What the manifest knows of a file: its length and the SHA-256 of its bytes."""

    bytes: int
    sha256: str


def write_tensors(path: Path, tensors: Mapping[str, Storable]) -> FileRecord:
    """Write arrays (views are fine) as a safetensors file, durable when this returns."""
    digest = hashlib.sha256()
    with create(path) as handle:
        for chunk in _chunks(_as_tensors(tensors)):
            digest.update(chunk)
            handle.write(chunk)
        handle.flush()
        os.fsync(handle.fileno())
        return FileRecord(handle.tell(), digest.hexdigest())


def _as_tensors(arrays: Mapping[str, Storable]) -> dict[str, Array]:
    """The same by the names of the file, halves apart."""
    tensors: dict[str, Array] = {}
    for name, array in arrays.items():
        if isinstance(array, SplitArray):
            tensors[name + UPPER], tensors[name + LOWER] = array.high, array.low
        else:
            tensors[name] = array
    return tensors


def _chunks(tensors: dict[str, Array]) -> Iterator[bytes | memoryview]:
    header = _header(tensors)
    yield len(header).to_bytes(8, "little")
    yield header
    for array in tensors.values():
        for block in row_blocks(array):
            yield np.ascontiguousarray(block).reshape(-1).view(np.uint8).data


def _header(tensors: dict[str, Array]) -> bytes:
    """The JSON header, padded with blanks so that the data starts on a 64-byte boundary."""
    entries, at = {}, 0
    for name, array in tensors.items():
        entries[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-(len(text) + 8) % 64)


def row_blocks(array: Storable) -> Iterator[Storable]:
    """The array's rows, as views of at most about ``BLOCK_BYTES``."""
    rows = array if array.ndim else np.atleast_1d(np.asarray(array))
    for start, stop in block_ranges(rows.shape[0], rows.nbytes):
        yield rows[start:stop]


def block_ranges(
    rows: int, nbytes: int, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of rows of at most about ``block_bytes``, at least one row each."""
    step = max(1, block_bytes * rows // max(1, nbytes))
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


def check_file(path: Path, record: FileRecord) -> None:
    """Raise CheckpointError unless the file is there with the recorded length and checksum."""
    check_size(path, record)
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for chunk in _file_chunks(handle):
            digest.update(chunk)
    if digest.hexdigest() != record.sha256:
        raise CheckpointError(
            f"{path}: the checksum is not the one in the manifest, so the file was damaged or "
            "changed after it was saved"
        )


def check_size(path: Path, record: FileRecord) -> None:
    """Raise CheckpointError unless the file is there with the recorded length."""
    if not path.is_file():
        raise CheckpointError(f"{path}: the manifest names this file, but it is not there")
    size = path.stat().st_size
    if size != record.bytes:
        raise CheckpointError(f"{path}: {size} bytes, but the manifest says {record.bytes}")


def _file_chunks(handle: BinaryIO) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(1 << 22))
    while count := handle.readinto(buffer):  # type: ignore[attr-defined]
        yield buffer[:count]


def read_rows(path: Path, name: str, target: Storable) -> None:
    """Fill ``target`` with the tensor of that name and exactly that shape and element type."""
    with _opened(path, name) as tensor:
        found = (tuple(tensor.get_shape()), tensor.get_dtype())
        if found != (target.shape, DTYPES.get(target.dtype.name)):
            raise CheckpointError(
                f"{path}: {name} is stored as {found[1]} {found[0]}, but the manifest says "
                f"{target.dtype} {target.shape}"
            )
        if target.ndim == 0:
            target[...] = tensor[...]
            return
        for start, stop in block_ranges(target.shape[0], target.nbytes):
            target[start:stop] = tensor[start:stop]


def tensor_blocks(path: Path, name: str) -> Iterator[tuple[int, Array]]:
    """The tensor of that name, a block of rows at a time: the first row's number, and the rows."""
    with _opened(path, name) as tensor:
        shape = tuple(tensor.get_shape())
        nbytes = int(np.prod(shape)) * np.dtype(NAMES[tensor.get_dtype()]).itemsize
        for start, stop in block_ranges(shape[0], nbytes):
            yield start, tensor[start:stop]


@contextmanager
def _opened(path: Path, name: str) -> Iterator[Any]:
    try:
        with safe_open(os.fspath(path), framework="numpy") as tensors:
            yield _halves(tensors, name) or tensors.get_slice(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: {name} cannot be read: {error}") from error


def _halves(tensors: Any, name: str) -> _Halves | None:
    """The array of that name, if the file has it in halves."""
    if name + UPPER not in tensors.keys():  # noqa: SIM118 - not a mapping
        return None
    return _Halves(tensors.get_slice(name + UPPER), tensors.get_slice(name + LOWER))


class _Halves:
    """Two tensors, read as the one that they are halves of."""

    def __init__(self, high: Any, low: Any) -> None:
        self._upper, self._lower = high, low

    def get_shape(self) -> list[int]:
        """As of the library's slices."""
        shape: list[int] = self._upper.get_shape()
        return shape

    def get_dtype(self) -> str:
        """What the joined numbers are."""
        return DTYPES["float32"]

    def __getitem__(self, key: Any) -> Array:
        return np.asarray(SplitArray(self._upper[key], self._lower[key]))
