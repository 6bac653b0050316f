"""Text files, plain or gzip, read in blocks of whole lines."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dlrmjit.errors import DataError

_BLOCK_BYTES = 1 << 20
_LONGEST_LINE = 8 << 20
_GZIP_MAGIC = b"\x1f\x8b"


class TextBlocks:
    """Iterates over (number of the first line, whole lines) of a file; line numbers start at 1.

    A file with gzip's magic number is decompressed, whatever its name. Every line ends with one
    byte, including the last. Raises :class:`DataError` for a file that is missing, unreadable,
    truncated or damaged, and for a line of more than 8 MiB.
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
        rest = b""
        for block in self._read_blocks():
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
    """Open a file for reading bytes, decompressing it if it has gzip's magic number."""
    if is_compressed(path):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return open(path, "rb")


def is_compressed(path: Path) -> bool:
    """Return whether a file has gzip's magic number."""
    with open(path, "rb") as file:
        return file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC


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
    except (zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: damaged compressed data after line {lines()} ({error}); copy or download it "
            "again"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
