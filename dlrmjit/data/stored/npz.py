"""NumPy's ``.npz`` files: members read with their headers checked first, or mapped into memory."""

from __future__ import annotations

import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.stored.npy import Header, map_at, read_header
from dlrmjit.errors import DataError, MemoryLimitError, format_gib
from dlrmjit.files import refuse_special

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_LOCAL_MAGIC, _NPY_MAGIC = b"PK\x03\x04", b"\x93NUMPY"
_ZIP_MAGIC = (_LOCAL_MAGIC, b"PK\x05\x06")  # of a file with members, and of one without
_BLOCK = 1 << 24
_MOST_MEMBERS = 1 << 14
_ENCRYPTED, _PATCHED, _UTF8 = 1, 0x20, 0x800  # bits of a member's flags

Shape = Sequence["int | None"]


def read_npz(
    path: str | Path,
    shapes: Mapping[str, Shape | None],
    *optional: str,
    archive: IO[bytes] | None = None,
) -> dict[str, NDArray[Any]]:
    """Return arrays of an ``.npz`` file by name.

    ``shapes`` are those that the arrays must have, with None for any length or any shape; arrays
    ``optional`` may be absent. With ``archive``, read that file, and name ``path`` in messages.
    Raises DataError for a file that is damaged, lacks an array or has one of another shape, and
    MemoryLimitError for arrays that do not fit into memory.
    """
    with _reading(path):
        if archive is not None:
            return _read(path, archive, shapes, optional)
        with _opened(path) as file:
            return _read(path, file, shapes, optional)


def map_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an uncompressed ``.npz`` file by name, each mapped into memory.

    Raises DataError for a damaged or compressed file; for that it is read once.
    """
    with _reading(path), _opened(path) as file, _archive(file) as archive:
        size = os.fstat(file.fileno()).st_size
        return {
            name: _map_member(path, file, size, member)
            for name, member in _members(path, archive).items()
        }


def _opened(path: str | Path) -> IO[bytes]:
    """Open a file, but no pipe: that would wait for a writer."""
    refuse_special(path)
    return open(path, "rb")


def _archive(file: IO[bytes]) -> zipfile.ZipFile:
    """Open a zip file that starts with its first member, as NumPy wants it too."""
    file.seek(0)
    if file.read(len(_ZIP_MAGIC[0])) not in _ZIP_MAGIC:
        raise zipfile.BadZipFile("it does not start as a zip file")
    return zipfile.ZipFile(file)


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """Convert what zip files raise when they are damaged into a DataError that names the file."""
    try:
        yield
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is not a complete .npz file of numbers ({error})") from None
    except (
        *(EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError),
        *(struct.error, zlib.error, lzma.LZMAError),
    ) as error:
        raise DataError(f"{path} is not a complete .npz file of numbers ({error})") from None
    except MemoryError as error:
        raise MemoryLimitError(f"{path} does not fit into memory: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _members(path: str | Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the members by the name of their array; refuse repeated and encrypted ones."""
    members: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    if len(infos) > _MOST_MEMBERS:
        raise DataError(f"{path} has {len(infos)} members, more than the {_MOST_MEMBERS} allowed")
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if name in members:
            raise DataError(f"{path} has two arrays called {name!r}")
        if info.flag_bits & _ENCRYPTED:
            raise DataError(f"{path}: {name} is encrypted; write the file without a password")
        if info.flag_bits & _PATCHED:
            raise DataError(f"{path}: {name} is a compressed patch; write the array itself")
        members[name] = info
    return members


def _read(
    path: str | Path,
    file: IO[bytes],
    shapes: Mapping[str, Shape | None],
    optional: Sequence[str],
) -> dict[str, NDArray[Any]]:
    if file.read(len(_NPY_MAGIC)) == _NPY_MAGIC:
        raise DataError(f"{path} holds one array; expected an .npz file with {', '.join(shapes)}")
    with _archive(file) as archive:
        members = _members(path, archive)
        missing = [name for name in shapes if name not in members and name not in optional]
        if missing:
            found = ", ".join(members) or "none"
            raise DataError(f"{path} lacks {', '.join(missing)}; it has {found}")
        return {
            name: _read_member(f"{path}: {name}", archive, members[name], shape)
            for name, shape in shapes.items()
            if name in members
        }


def _read_member(
    name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo, shape: Shape | None
) -> NDArray[Any]:
    with archive.open(member) as file:
        header = read_header(file, name)
        if header.offset + header.nbytes != member.file_size:
            raise DataError(f"{name}: its length is not that of {header.dtype} {header.shape}")
        _check_shape(name, header, shape)
        _check_memory(name, header)
        flat = np.empty(header.nbytes, np.uint8)
        filled = 0
        while filled < len(flat) and (block := file.read(min(_BLOCK, len(flat) - filled))):
            flat[filled : filled + len(block)] = np.frombuffer(block, np.uint8)
            filled += len(block)
        if filled < len(flat) or file.read(1):  # reading to the end checks the checksum
            raise DataError(f"{name}: its length is not that of {header.dtype} {header.shape}")
    return flat.view(header.dtype).reshape(header.shape, order=header.order)


def _check_shape(name: str, header: Header, shape: Shape | None) -> None:
    if shape is None:
        return
    fits = len(shape) == len(header.shape) and all(
        wanted in (None, found) for wanted, found in zip(shape, header.shape, strict=True)
    )
    if not fits:
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise DataError(f"{name} has shape {header.shape}, expected ({expected})")


def _check_memory(name: str, header: Header) -> None:
    """Raise MemoryLimitError for an array larger than the free memory of the machine."""
    free = free_bytes()
    if header.nbytes > free:
        raise MemoryLimitError(
            f"{name} needs {format_gib(header.nbytes)} when it is read, but {format_gib(free)} "
            "are free"
        )


def free_bytes() -> int:
    """Return the memory that the machine can give, or a large number if it does not tell."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return 1 << 62


def _check_sum(name: str, file: IO[bytes], first: int, member: zipfile.ZipInfo) -> None:
    file.seek(first)
    left, checksum = member.file_size, 0
    while left and (block := file.read(min(_BLOCK, left))):
        checksum, left = zlib.crc32(block, checksum), left - len(block)
    if left or checksum != member.CRC:
        raise DataError(f"{name} is damaged: its checksum does not match")


def _map_member(path: Path, file: IO[bytes], size: int, member: zipfile.ZipInfo) -> NDArray[Any]:
    name = f"{path}: {member.filename}"
    if member.compress_type != zipfile.ZIP_STORED:
        raise DataError(f"{path} is compressed and cannot be mapped; write it with np.savez")
    file.seek(member.header_offset)
    magic, name_bytes, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    first = member.header_offset + _LOCAL_HEADER.size + name_bytes + extra
    stored = file.read(name_bytes)
    is_whole = member.compress_size == member.file_size
    if magic != _LOCAL_MAGIC or not is_whole or first + member.file_size > size:
        raise DataError(
            f"{name} reaches beyond the end of the file; it is truncated or was changed"
        )
    if stored != member.orig_filename.encode("utf-8" if member.flag_bits & _UTF8 else "cp437"):
        raise DataError(f"{name} is called {stored!r} where it starts; the file was changed")
    _check_sum(name, file, first, member)
    file.seek(first)
    header = replace(read_header(file, name), offset=file.tell())
    if header.offset - first + header.nbytes != member.file_size:
        raise DataError(f"{name}: its length is not that of {header.dtype} {header.shape}")
    return map_at(path, header)
