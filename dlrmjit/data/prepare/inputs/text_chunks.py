"""Text files in chunks of whole lines, read into buffers that are reused."""

from __future__ import annotations

import io
import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from dlrmjit_kernels.data.criteo import PADDING
from numpy.typing import NDArray

from dlrmjit.data.formats.text_blocks import (
    BYTE_ORDER_MARK,
    DAMAGED,
    is_compressed,
    open_text,
    reading,
    skip_bytes,
)

CHUNK_BYTES = 8 << 20
"""Size of a chunk of text; no line may be longer."""
_END = 10
_LINE_BYTES = 1 << 16  # of one read where a line is looked for


@dataclass
class Buffer:
    """Memory for one chunk of text, and how much of it is filled.

    ``columns`` are arrays of the chunk's rows, which a format may reuse for the next chunk.
    """

    raw: bytearray
    text: NDArray[np.uint8]
    filled: int = 0
    columns: tuple[NDArray[Any], ...] = ()

    @classmethod
    def of(cls, size: int) -> Buffer:
        """Return a buffer for ``size`` bytes and the padding that the parser may read."""
        raw = bytearray(size + PADDING)
        return cls(raw, np.frombuffer(raw, np.uint8))

    def fill(self, source: BinaryIO, rest: bytes, usual: int, most: int) -> bool:
        """Fill with ``rest`` and the following bytes of ``source``; return whether it has ended.

        These are ``usual`` bytes, or up to ``most`` if fewer have no line end.
        """
        self.raw[: len(rest)] = rest
        self.filled, size = len(rest), usual
        self._add(source, size)
        while self.filled >= size < most and self.raw.rfind(b"\n", 0, self.filled) < 0:
            size = min(2 * size, most)
            self._add(source, size)
        return self.filled < size

    def _add(self, source: BinaryIO, size: int) -> None:
        with memoryview(self.raw) as view:
            while self.filled < size:
                # one read at a time, so that the bytes before an error are counted
                got: int = source.readinto1(view[self.filled : size])  # type: ignore[attr-defined]
                if not got:
                    break
                self.filled += got

    def close_last_line(self) -> None:
        """Add a line end, for which the padding has room, if the file's last line lacks one."""
        if self.filled and self.raw[self.filled - 1] != _END:
            self.raw[self.filled] = _END
            self.filled += 1


@dataclass(frozen=True)
class TextChunk:
    """Lines ``text[:end]`` of input ``file``: its bytes ``start`` to ``after``.

    ``end`` = 0 means one line that is longer than a buffer and was skipped.
    """

    file: int
    buffer: Buffer
    end: int
    start: int
    after: int

    @property
    def is_too_long(self) -> bool:
        """Whether this is a skipped line that is longer than a buffer."""
        return self.end == 0

    @property
    def first(self) -> int:
        """Position of the first line: after a byte order mark at the start of a file."""
        has_mark = self.start == 0 and self.buffer.raw.startswith(BYTE_ORDER_MARK)
        return min(len(BYTE_ORDER_MARK), self.end) if has_mark else 0


class ChunkedText:
    """Yields the chunks of several files; the base class of text formats, which add ``parse``.

    A chunk has ``usual_bytes``, more only if these are less than a line.
    """

    def __init__(self, paths: tuple[Path, ...], buffers: int) -> None:
        self._paths, self._size, self.usual_bytes = paths, CHUNK_BYTES, CHUNK_BYTES
        self._free: queue.SimpleQueue[Buffer] = queue.SimpleQueue()
        for _ in range(buffers):
            self._free.put(Buffer.of(self._size))

    def sizes(self) -> list[int] | None:
        """Return the bytes of each file, or None if one is compressed and its size unknown."""
        if any(is_compressed(path) for path in self._paths):
            return None
        return [path.stat().st_size for path in self._paths]

    def release(self, chunk: TextChunk) -> None:
        """Allow reuse of the chunk's buffer."""
        self._free.put(chunk.buffer)

    def chunks(
        self, file: int, offset: int, lines: int, stop: int | None = None
    ) -> Iterator[TextChunk]:
        """Yield all chunks from byte ``offset`` (decompressed) of input ``file`` on.

        ``lines`` lines precede it in that file. With ``stop``, which is where a line starts, only
        those of that file up to this byte. Raises DataError for a file that cannot be read, naming
        the line after which it is damaged.
        """
        for number in range(file, len(self._paths) if stop is None else file + 1):
            walk = _Walk(number, offset, lines) if number == file else _Walk(number)
            path = self._paths[number]
            with reading(path, lambda: walk.lines):  # noqa: B023 - not used after this iteration
                yield from self._chunks_of(path, walk, stop)

    def cuts(self, file: int, count: int) -> list[int]:
        """Return where lines start that cut a file into parts; none of compressed text."""
        path = self._paths[file]
        with reading(path):
            if is_compressed(path):
                return []
            size, found = path.stat().st_size, set()
            with open_text(path) as source:
                for part in range(1, count):
                    source.seek(max(0, size * part // count - 1))
                    while (line := source.readline(_LINE_BYTES)) and not line.endswith(b"\n"):
                        pass
                    found.add(source.tell())
        return sorted(found - {size})

    def lines_before(self, file: int, position: int) -> int:
        """Return the number of lines before byte ``position`` of a file that is not compressed."""
        lines, path = 0, self._paths[file]
        with reading(path), open_text(path) as source:
            while block := source.read(min(position, self._size)):
                lines, position = lines + block.count(b"\n"), position - len(block)
        return lines

    def _chunks_of(self, path: Path, walk: _Walk, stop: int | None) -> Iterator[TextChunk]:
        counts = is_compressed(path)
        with open_text(path) as whole:
            skip_bytes(whole, walk.offset)
            source = whole if stop is None else _limited(whole, stop - walk.offset)
            rest, is_last = b"", False
            while not is_last:
                buffer = self._free.get()
                try:
                    is_last = buffer.fill(source, rest, self.usual_bytes, self._size)
                except (EOFError, *DAMAGED):
                    walk.lines += buffer.raw.count(b"\n", 0, buffer.filled)
                    raise
                if is_last:
                    buffer.close_last_line()
                end = buffer.raw.rfind(b"\n", 0, buffer.filled) + 1
                walk.lines += buffer.raw.count(b"\n", 0, end) if counts else 0
                if end:
                    rest = bytes(buffer.raw[end : buffer.filled])
                    yield walk.step(buffer, end, end)
                elif buffer.filled:
                    rest, skipped = _skip_line(source, self._size)
                    walk.lines += 1
                    yield walk.step(buffer, 0, buffer.filled + skipped)
                else:
                    self._free.put(buffer)


@dataclass
class _Walk:
    """The position of the reader in one file."""

    file: int
    offset: int = 0
    lines: int = 0

    def step(self, buffer: Buffer, end: int, size: int) -> TextChunk:
        """Return the chunk of the next ``size`` bytes of the file and advance."""
        start, self.offset = self.offset, self.offset + size
        return TextChunk(self.file, buffer, end, start, self.offset)


class _Part(io.RawIOBase):
    """The next ``left`` bytes of a file."""

    def __init__(self, source: BinaryIO, left: int) -> None:
        self._source, self._left = source, left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = memoryview(buffer)[: self._left]
        got: int = self._source.readinto1(part) if part else 0  # type: ignore[attr-defined]
        self._left = self._left - got if got else 0  # what has ended is not read again
        return got


def _limited(source: BinaryIO, size: int) -> BinaryIO:
    """Return a reader of the next ``size`` bytes of ``source``."""
    return io.BufferedReader(_Part(source, size), _LINE_BYTES)


def _skip_line(source: BinaryIO, size: int) -> tuple[bytes, int]:
    """Skip the rest of the current line; return bytes read after it, and how many it had."""
    skipped = 0
    while block := source.read(size):
        end = block.find(b"\n") + 1
        if end:
            return block[end:], skipped + end
        skipped += len(block)
    return b"", skipped


def line_limit() -> int:
    """Return the maximum number of bytes of a line."""
    return CHUNK_BYTES


def too_long(path: str) -> Callable[[int], str]:
    """Return a function from a line's number to the message that it is too long."""
    limit = f"{CHUNK_BYTES >> 20} MiB" if CHUNK_BYTES >> 20 else f"{CHUNK_BYTES} bytes"
    return lambda line: f"{path}, line {line}: longer than {limit}"
