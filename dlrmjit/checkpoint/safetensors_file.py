"""Read and write one safetensors file: streamed from views, read in slices.

The writer of the safetensors library needs contiguous arrays and a second pass for the checksum.
The format is a length, a JSON header and the bytes, so that writing it here takes a few lines and
saves a copy of a table. Reading, where a file may be damaged, is left to the library.

A Split-BF16 array is stored as two tensors, ``name.upper`` and ``name.lower``, and read as one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from dlrmjit.checkpoint.file_record import SHA256, FileRecord, new_digest
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
"""Maps the NumPy dtypes that can be stored to the names of the format."""

NAMES = {stored: name for name, stored in DTYPES.items()}

UPPER, LOWER = ".upper", ".lower"
"""Suffixes of the tensors with the high and low 16 bits of a Split-BF16 array."""

_CACHED_BYTES = 1 << 19  # hashed, then written from the cache
BLOCK_BYTES = 1 << 26
"""Bytes read or written at a time; the largest copy that saving or loading makes."""


def write_tensors(
    path: Path, tensors: Mapping[str, Storable], *, syncs: bool = False
) -> FileRecord:
    """Write arrays or views as a safetensors file; return its length and checksum.

    Unless it ``syncs``, the file is synced with the folder that is published.
    """
    with create(path, syncs=syncs) as handle:
        return stream_tensors(handle.write, tensors)


def stream_tensors(
    write: Callable[[Any], object], tensors: Mapping[str, Storable], kind: str = SHA256
) -> FileRecord:
    """Call ``write`` with the content of a safetensors file, part by part; return its record."""
    digest, written = new_digest(kind), 0
    for chunk in _chunks(_as_tensors(tensors)):
        for start in range(0, len(chunk), _CACHED_BYTES):
            part = chunk[start : start + _CACHED_BYTES]
            digest.update(part)
            write(part)
            written += len(part)
    return FileRecord(written, digest.hexdigest(), kind)


def size_of(tensors: Mapping[str, Storable]) -> int:
    """Return the length in bytes of the file that has ``tensors``."""
    stored = _as_tensors(tensors)
    return 8 + len(_header(stored)) + sum(array.nbytes for array in stored.values())


def _as_tensors(arrays: Mapping[str, Storable]) -> dict[str, Array]:
    """Return the tensors of the file by name: two for a Split-BF16 array."""
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
    """Return the JSON header, padded with blanks so that the data starts at a multiple of 64."""
    entries, offset = {}, 0
    for name, array in tensors.items():
        entries[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-(len(text) + 8) % 64)


def row_blocks(array: Storable) -> Iterator[Storable]:
    """Yield views of consecutive rows, of about ``BLOCK_BYTES`` each."""
    rows = array if array.ndim else np.atleast_1d(np.asarray(array))
    for start, stop in block_ranges(rows.shape[0], rows.nbytes):
        yield rows[start:stop]


def block_ranges(
    rows: int, nbytes: int, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[int, int]]:
    """Yield consecutive ranges (start, stop) of rows of about ``block_bytes``, at least one row."""
    step = max(1, block_bytes * rows // max(1, nbytes))
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


def read_rows(path: os.PathLike[str], name: str, target: Storable) -> None:
    """Fill ``target`` with a tensor; raise CheckpointError for another shape or dtype."""
    with _opened(path, name) as tensor:
        shape, dtype = tuple(tensor.get_shape()), tensor.get_dtype()
        if (shape, dtype) != (target.shape, DTYPES.get(target.dtype.name)):
            raise CheckpointError(
                f"{path}: {name} is stored as {dtype} {shape}, but the manifest says "
                f"{target.dtype} {target.shape}"
            )
        if target.ndim == 0:
            target[...] = tensor[...]
            return
        for start, stop in block_ranges(target.shape[0], target.nbytes):
            target[start:stop] = tensor[start:stop]


def tensor_blocks(path: os.PathLike[str], name: str) -> Iterator[tuple[int, Array]]:
    """Yield blocks of rows of a tensor, each with the index of its first row."""
    with _opened(path, name) as tensor:
        shape = tuple(tensor.get_shape())
        nbytes = int(np.prod(shape)) * np.dtype(NAMES[tensor.get_dtype()]).itemsize
        for start, stop in block_ranges(shape[0], nbytes):
            yield start, tensor[start:stop]


@contextmanager
def _opened(path: os.PathLike[str], name: str) -> Iterator[Any]:
    try:
        with safe_open(os.fspath(path), framework="numpy") as tensors:
            yield _split_slice(tensors, name) or tensors.get_slice(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: {name} cannot be read: {error}") from error


def _split_slice(tensors: Any, name: str) -> _SplitSlice | None:
    """Return the slice of a Split-BF16 array, or None if ``name`` is stored as one tensor."""
    if name + UPPER not in tensors.keys():  # noqa: SIM118 - not a mapping
        return None
    return _SplitSlice(tensors.get_slice(name + UPPER), tensors.get_slice(name + LOWER))


class _SplitSlice:
    """The tensors of a Split-BF16 array, with the methods of a slice of the library."""

    def __init__(self, high: Any, low: Any) -> None:
        self._upper, self._lower = high, low

    def get_shape(self) -> list[int]:
        """Return the shape of the array."""
        shape: list[int] = self._upper.get_shape()
        return shape

    def get_dtype(self) -> str:
        """Return the dtype of the joined values."""
        return DTYPES["float32"]

    def __getitem__(self, key: Any) -> Array:
        return np.asarray(SplitArray(self._upper[key], self._lower[key]))
