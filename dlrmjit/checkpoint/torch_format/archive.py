"""The zip archive of a PyTorch file: its pickle, and its storages mapped into memory.

PyTorch stores elements uncompressed, so that a storage can be mapped and needs no memory until it
is read. Compressed entries, which other tools write, are decompressed instead.
"""

from __future__ import annotations

import lzma
import os
import struct
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dlrmjit.checkpoint.torch_format.pickle import BFLOAT16, Storage
from dlrmjit.errors import CheckpointError
from dlrmjit.files import refuse_special

Array = NDArray[Any]

MOST_PICKLE_BYTES = 64 << 20
"""Size of the pickle beyond which no file is read: that of a model takes 100 bytes a tensor."""

_DAMAGES = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError),
    *(NotImplementedError, RuntimeError, ValueError, MemoryError),  # unknown or encrypted entries
)

LOCAL_HEADER = struct.Struct("<4s22sHH")
"""Head of an entry: signature, fields that the zip directory repeats, two name lengths."""


class TorchArchive:
    """An open PyTorch file.

    Raises
    ------
    CheckpointError
        If the file is missing, not a zip archive, or contains no PyTorch pickle.
    """

    def __init__(self, path: Path) -> None:
        refuse_special(path, CheckpointError)
        self.path = path
        self._file = _open_file(path)  # once: a save that replaces the file changes nothing here
        try:
            self._zip = _open_zip(path, self._file)
            self._prefix = self._find_prefix()
            self._big_endian = self._optional("byteorder") == b"big"
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> TorchArchive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._zip.close()
        self._file.close()

    def pickle(self) -> bytes:
        """Return the bytes of the pickle; raises CheckpointError for one too large."""
        info = self._zip.getinfo(f"{self._prefix}data.pkl")
        if info.file_size > MOST_PICKLE_BYTES:
            raise CheckpointError(
                f"{self.path}: its pickle has {info.file_size} bytes, more than the "
                f"{MOST_PICKLE_BYTES} of a model whose tensors are stored apart"
            )
        return self._read(info)

    def storage(self, storage: Storage) -> Array:
        """Return all elements of a storage, one-dimensional and read-only.

        Raises CheckpointError if the entry is missing, damaged or too short.
        """
        info = self._entry(f"data/{storage.key}")
        kind = np.dtype("u2" if storage.dtype == BFLOAT16 else storage.dtype)
        dtype = kind.newbyteorder(">" if self._big_endian else "<")
        if info.file_size < storage.length * dtype.itemsize:
            raise CheckpointError(
                f"{self.path}: the storage {storage.key} has {info.file_size} bytes, too few for "
                f"{storage.length} elements of {dtype.itemsize} bytes; the file is damaged"
            )
        if storage.length == 0:
            return np.empty(0, dtype)
        if info.compress_type != zipfile.ZIP_STORED:
            if info.file_size > storage.length * dtype.itemsize:
                raise CheckpointError(
                    f"{self.path}: the compressed storage {storage.key} has {info.file_size} "
                    f"bytes, but its tensors need {storage.length * dtype.itemsize}"
                )
            return np.frombuffer(self._read(info), dtype, storage.length)
        return np.memmap(self._file, dtype, "r", self._data_offset(info), (storage.length,))

    def _find_prefix(self) -> str:
        for name in self._zip.namelist():
            if name.endswith("/data.pkl"):
                return name.removesuffix("data.pkl")
        raise CheckpointError(f"{self.path}: a zip archive without a PyTorch pickle")

    def _optional(self, name: str) -> bytes | None:
        try:
            return self._read(self._zip.getinfo(self._prefix + name)).strip()
        except KeyError:
            return None

    def _entry(self, name: str) -> zipfile.ZipInfo:
        try:
            return self._zip.getinfo(self._prefix + name)
        except KeyError:
            raise CheckpointError(f"{self.path}: the archive lacks {name}") from None

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        try:
            content = self._zip.read(info)
        except _DAMAGES as error:
            raise CheckpointError(f"{self.path}: {info.filename}: {error}") from error
        if len(content) != info.file_size:  # compressed data may end early, with its checksum
            raise CheckpointError(
                f"{self.path}: {info.filename} has {len(content)} bytes, not the {info.file_size} "
                "of the archive's directory; the file is damaged"
            )
        return content

    def _data_offset(self, info: zipfile.ZipInfo) -> int:
        """Return the offset of an uncompressed entry's bytes, checked to be within the file."""
        self._file.seek(info.header_offset)
        head = self._file.read(LOCAL_HEADER.size)
        if len(head) < LOCAL_HEADER.size or not head.startswith(b"PK\x03\x04"):
            raise CheckpointError(f"{self.path}: {info.filename} is damaged")
        _, _, name, extra = LOCAL_HEADER.unpack(head)
        start = info.header_offset + LOCAL_HEADER.size + int(name) + int(extra)
        if start + info.file_size > os.fstat(self._file.fileno()).st_size:
            raise CheckpointError(f"{self.path}: {info.filename} is truncated")
        return start


def _open_file(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _open_zip(path: Path, file: BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise CheckpointError(f"{path}: {_description(file)}") from None
    except (OSError, NotImplementedError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _description(file: BinaryIO) -> str:
    """Return what a file that is not a zip archive seems to be."""
    file.seek(0)
    start = file.read(2)
    if start.startswith(b"\x80"):
        return (
            "a bare pickle, the format of PyTorch before version 1.6; load it in PyTorch and save "
            "it again"
        )
    if start == b"PK":
        return "a PyTorch file that is truncated or damaged"
    return "not a file saved by PyTorch"
