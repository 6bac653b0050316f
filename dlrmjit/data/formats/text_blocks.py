"""Text files, plain, gzip or Zstandard, read in blocks of whole lines."""

from __future__ import annotations

import gzip
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dlrmjit.data.formats.gunzip import GZIP_MAGIC, open_gzip
from dlrmjit.data.formats.unzstd import ZSTD_MAGIC, DamagedZstdError, open_zstd
from dlrmjit.errors import DataError

_BLOCK_BYTES = 1 << 20
_LONGEST_LINE = 8 << 20
_OTHER_MAGICS = {
    b"PK\x03\x04": "zip",
    b"\xfd7zXZ\0": "xz",
    **{b"BZh%d1AY&SY" % level: "bzip2" for level in range(1, 10)},
}
_COMPRESSED = {GZIP_MAGIC: open_gzip, ZSTD_MAGIC: open_zstd}
DAMAGED = (zlib.error, gzip.BadGzipFile, DamagedZstdError)
"""What reading damaged compressed data raises; EOFError if they are truncated."""
_MAGIC_BYTES = max(map(len, _OTHER_MAGICS))
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""The bytes with which some programs begin UTF-8 text; they are no part of the first field."""


class TextBlocks:
    """Iterates over (number of the first line, whole lines) of a file; line numbers start at 1.

    A file with the magic number of gzip or Zstandard is decompressed, whatever its name. Every
    line ends with one byte, including the last. Raises :class:`DataError` for a file that is
    missing, unreadable, truncated or damaged, and for a line of more than 8 MiB.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        self._lines = 0
        for block in self._whole_lines():
            first = self._lines + 1
            self._lines += block.count(b"\n")
            yield first, block

    def _whole_lines(self) -> Iterator[bytes]:
        rest, is_first = b"", True
        for block in self._read_blocks():
            block = block.removeprefix(BYTE_ORDER_MARK) if is_first else block
            is_first = False
            head, found, tail = (rest + block).rpartition(b"\n")
            if found:
                yield (head + found).replace(b"\r\n", b"\n")
            rest = tail
            if len(rest) > _LONGEST_LINE:
                raise DataError(
                    f"{self._path}, line {self._lines + 1}: longer than {_LONGEST_LINE >> 20} MiB"
                )
        if rest:
            yield rest.removesuffix(b"\r") + b"\n"

    def _read_blocks(self) -> Iterator[bytes]:
        with reading(self._path, lambda: self._lines), open_text(self._path) as file:
            while block := file.read(_BLOCK_BYTES):
                yield block


def open_text(path: Path) -> BinaryIO:
    """Open a file for reading bytes, decompressing it if its magic number is one we know.

    Raises DataError for a file that is compressed in another way, and for a pipe.
    """
    check_rereadable(path)
    with open(path, "rb") as file:
        start = file.read(_MAGIC_BYTES)
    for magic, name in _OTHER_MAGICS.items():
        if start.startswith(magic):
            raise DataError(
                f"{path} is a {name} file, but text is read plain, as gzip or as Zstandard; "
                "decompress it first"
            )
    for magic, opened in _COMPRESSED.items():
        if start.startswith(magic):
            return opened(path)
    return open(path, "rb")


def check_rereadable(path: Path) -> None:
    """Raise DataError for a pipe, socket or device; inputs are opened more than once.

    Raises OSError for a path that does not exist.
    """
    kind = path.stat().st_mode
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind):
        return
    name = "a pipe" if stat.S_ISFIFO(kind) else "a socket" if stat.S_ISSOCK(kind) else "a device"
    raise DataError(
        f"{path} is {name}, which can be read only once, but the format is detected before the "
        "data are read; write them to a file first (gzip, Zstandard and Parquet need no "
        "decompression)"
    )


def is_compressed(path: Path) -> bool:
    """Return whether a file has the magic number of gzip or Zstandard."""
    with open(path, "rb") as file:
        return file.read(_MAGIC_BYTES).startswith(tuple(_COMPRESSED))


def skip_bytes(source: BinaryIO, count: int) -> None:
    """Advance ``source`` by ``count`` bytes; compressed data are read to get there."""
    if source.seekable():
        source.seek(count)
        return
    while count > 0 and (block := source.read(min(count, _BLOCK_BYTES))):
        count -= len(block)


@contextmanager
def reading(path: Path, lines: Callable[[], int] = lambda: 0) -> Iterator[None]:
    """Convert errors while ``path`` is read into a DataError that names it.

    ``lines()`` is the number of complete lines read so far.
    """
    try:
        yield
    except EOFError:
        raise DataError(
            f"{path} ends in the middle of its compressed data, after line {lines()}; it is "
            "truncated, so copy or download it again"
        ) from None
    except DAMAGED as error:
        raise DataError(
            f"{path}: damaged compressed data after line {lines()} ({error}); copy or download it "
            "again"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
