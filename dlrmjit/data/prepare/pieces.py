"""A text file in pieces of whole lines, read into buffers that are used again."""

from __future__ import annotations

import gzip
import queue
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from dlrmjit_kernels.criteo_lines import PADDING
from numpy.typing import NDArray

from dlrmjit.data.text_blocks import open_text
from dlrmjit.errors import DataError

_END = 10


@dataclass
class Buffer:
    """Room for one piece of text."""

    raw: bytearray
    text: NDArray[np.uint8]

    @classmethod
    def of(cls, size: int) -> Buffer:
        """A buffer for pieces of ``size`` bytes and what the parser may read behind them."""
        raw = bytearray(size + PADDING)
        return cls(raw, np.frombuffer(raw, np.uint8))


@dataclass(frozen=True)
class Piece:
    """Lines ``text[:end]`` of input ``file``; the next piece starts at byte ``after`` of it.

    ``end`` = 0 stands for one line that does not fit into a buffer and was passed over.
    """

    file: int
    buffer: Buffer
    end: int
    after: int


class PieceReader:
    """Yields the pieces of many files from a position on; pieces are given back when parsed."""

    def __init__(self, paths: tuple[Path, ...], size: int, buffers: int) -> None:
        self._paths, self._size = paths, size
        self._free: queue.SimpleQueue[Buffer] = queue.SimpleQueue()
        for _ in range(buffers):
            self._free.put(Buffer.of(size))

    def give_back(self, piece: Piece) -> None:
        """Let the piece's buffer be filled again."""
        self._free.put(piece.buffer)

    def pieces(self, file: int = 0, offset: int = 0) -> Iterator[Piece]:
        """All pieces from byte ``offset`` (decompressed) of input ``file`` on."""
        for number in range(file, len(self._paths)):
            try:
                yield from self._pieces_of(number, offset if number == file else 0)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise _damaged(self._paths[number], error) from None
            except OSError as error:
                raise DataError(
                    f"{self._paths[number]} cannot be read: {error.strerror or error}"
                ) from None

    def _pieces_of(self, file: int, offset: int) -> Iterator[Piece]:
        """Fill buffers; what follows the last line end of one begins the next."""
        with open_text(self._paths[file]) as source:
            source.seek(offset)
            rest, is_last = b"", False
            while not is_last:
                buffer = self._free.get()
                filled = _fill(source, buffer, rest, self._size)
                is_last = filled < self._size
                if is_last and filled:
                    filled = _close_last_line(buffer, filled)
                end = buffer.raw.rfind(b"\n", 0, filled) + 1
                if filled and not end:
                    rest, passed = _pass_line(source, self._size)
                    offset += filled + passed
                    yield Piece(file, buffer, 0, offset)
                elif end:
                    rest = bytes(buffer.raw[end:filled])
                    offset += end
                    yield Piece(file, buffer, end, offset)
                else:
                    self._free.put(buffer)


def _fill(source: BinaryIO, buffer: Buffer, rest: bytes, size: int) -> int:
    """Put ``rest`` and what follows it into ``buffer``; the bytes there are."""
    buffer.raw[: len(rest)] = rest
    filled = len(rest)
    with memoryview(buffer.raw) as view:
        while filled < size:
            got: int = source.readinto(view[filled:size])  # type: ignore[attr-defined]
            if not got:
                break
            filled += got
    return filled


def _close_last_line(buffer: Buffer, filled: int) -> int:
    """End the file's last line, which may lack its end; there is room in the padding."""
    if buffer.raw[filled - 1] == _END:
        return filled
    buffer.raw[filled] = _END
    return filled + 1


def _pass_line(source: BinaryIO, size: int) -> tuple[bytes, int]:
    """Read to the end of the current line; what was read behind it, and the bytes up to it."""
    passed = 0
    while block := source.read(size):
        end = block.find(b"\n") + 1
        if end:
            return block[end:], passed + end
        passed += len(block)
    return b"", passed


def _damaged(path: Path, error: Exception) -> DataError:
    if isinstance(error, EOFError):
        return DataError(
            f"{path} ends in the middle of its compressed data; it was cut off, copy or download "
            "it again"
        )
    return DataError(f"{path}: damaged compressed data ({error}); copy or download it again")
