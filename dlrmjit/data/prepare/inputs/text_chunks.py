"""A text file in chunks of whole lines, read into buffers that are used again."""

from __future__ import annotations

import gzip
import queue
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from dlrmjit_kernels.data.criteo import PADDING
from numpy.typing import NDArray

from dlrmjit.data.formats.text_blocks import is_compressed, open_text
from dlrmjit.errors import DataError

CHUNK_BYTES = 8 << 20
"""Text held in one chunk; no line may be longer."""
_END = 10


@dataclass
class Buffer:
    """Room for one chunk of text, and how much of it is filled."""

    raw: bytearray
    text: NDArray[np.uint8]
    filled: int = 0

    @classmethod
    def of(cls, size: int) -> Buffer:
        """A buffer for chunks of ``size`` bytes and what the parser may read behind them."""
        raw = bytearray(size + PADDING)
        return cls(raw, np.frombuffer(raw, np.uint8))

    def fill(self, source: BinaryIO, rest: bytes, size: int) -> None:
        """Hold ``rest`` and what follows it in ``source``, up to ``size`` bytes."""
        self.raw[: len(rest)] = rest
        self.filled = len(rest)
        with memoryview(self.raw) as view:
            while self.filled < size:
                # what is read before an error counts: so one read of the source at a time
                got: int = source.readinto1(view[self.filled : size])  # type: ignore[attr-defined]
                if not got:
                    break
                self.filled += got

    def close_last_line(self) -> None:
        """End the file's last line, which may lack its end; there is room in the padding."""
        if self.filled and self.raw[self.filled - 1] != _END:
            self.raw[self.filled] = _END
            self.filled += 1


@dataclass(frozen=True)
class TextChunk:
    """Lines ``text[:end]`` of input ``file``, whose bytes ``start`` to ``after`` they are.

    ``end`` = 0 stands for one line that does not fit into a buffer and was passed over.
    """

    file: int
    buffer: Buffer
    end: int
    start: int
    after: int

    @property
    def is_too_long(self) -> bool:
        """Whether this stands for a line that does not fit."""
        return self.end == 0


class ChunkedText:
    """Yields the chunks of many files from a position on; chunks are released when parsed.

    The formats of text are this and a ``parse``.
    """

    def __init__(self, paths: tuple[Path, ...], buffers: int) -> None:
        self._paths, self._size = paths, CHUNK_BYTES
        self._free: queue.SimpleQueue[Buffer] = queue.SimpleQueue()
        for _ in range(buffers):
            self._free.put(Buffer.of(self._size))

    def sizes(self) -> list[int] | None:
        """Bytes of every file, unless one is compressed, whose size says nothing."""
        if any(is_compressed(path) for path in self._paths):
            return None
        return [path.stat().st_size for path in self._paths]

    def release(self, chunk: TextChunk) -> None:
        """Let the chunk's buffer be filled again."""
        self._free.put(chunk.buffer)

    def chunks(self, file: int, offset: int, lines: int) -> Iterator[TextChunk]:
        """All chunks from byte ``offset`` (decompressed) of input ``file`` on.

        ``lines`` precede it in that file. Raises DataError for what cannot be read, naming the
        line after which it is damaged.
        """
        for number in range(file, len(self._paths)):
            walk = _Walk(number, offset, lines) if number == file else _Walk(number)
            path = self._paths[number]
            with reading(path, lambda: walk.lines):  # noqa: B023 - used up within this turn
                yield from self._chunks_of(path, walk)

    def _chunks_of(self, path: Path, walk: _Walk) -> Iterator[TextChunk]:
        counts = is_compressed(path)
        with open_text(path) as source:
            source.seek(walk.offset)
            rest, is_last = b"", False
            while not is_last:
                buffer = self._free.get()
                try:
                    buffer.fill(source, rest, self._size)
                except (EOFError, zlib.error, gzip.BadGzipFile):
                    walk.lines += buffer.raw.count(b"\n", 0, buffer.filled)
                    raise
                is_last = buffer.filled < self._size
                if is_last:
                    buffer.close_last_line()
                end = buffer.raw.rfind(b"\n", 0, buffer.filled) + 1
                walk.lines += buffer.raw.count(b"\n", 0, end) if counts else 0
                if end:
                    rest = bytes(buffer.raw[end : buffer.filled])
                    yield walk.step(buffer, end, end)
                elif buffer.filled:
                    rest, passed = _pass_line(source, self._size)
                    walk.lines += 1
                    yield walk.step(buffer, 0, buffer.filled + passed)
                else:
                    self._free.put(buffer)


@dataclass
class _Walk:
    """Where reading stands in one file."""

    file: int
    offset: int = 0
    lines: int = 0

    def step(self, buffer: Buffer, end: int, size: int) -> TextChunk:
        """The chunk that takes the next ``size`` bytes of the file."""
        start, self.offset = self.offset, self.offset + size
        return TextChunk(self.file, buffer, end, start, self.offset)


def _pass_line(source: BinaryIO, size: int) -> tuple[bytes, int]:
    """Read to the end of the current line; what was read behind it, and the bytes up to it."""
    passed = 0
    while block := source.read(size):
        end = block.find(b"\n") + 1
        if end:
            return block[end:], passed + end
        passed += len(block)
    return b"", passed


def line_limit() -> int:
    """Bytes that a line may have."""
    return CHUNK_BYTES


def too_long(path: str) -> Callable[[int], str]:
    """Tells of a line that does not fit, given its number."""
    limit = f"{CHUNK_BYTES >> 20} MiB" if CHUNK_BYTES >> 20 else f"{CHUNK_BYTES} bytes"
    return lambda line: f"{path}, line {line}: longer than {limit}"


@contextmanager
def reading(path: Path, lines: Callable[[], int] = lambda: 0) -> Iterator[None]:
    """Turn what can go wrong while ``path`` is read into a DataError that names it.

    ``lines`` tells how many were read whole.
    """
    try:
        yield
    except EOFError:
        raise DataError(
            f"{path} ends in the middle of its compressed data, after line {lines()}; it was cut "
            "off, copy or download it again"
        ) from None
    except (zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: damaged compressed data after line {lines()} ({error}); copy or download it "
            "again"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
