"""A reader of gzip that accepts nothing after the compressed data.

The standard library passes over zeros there, with which a truncated download ends whose space was
allocated in advance. Everything up to an error is returned first, so that its line can be named.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path
from typing import Any

GZIP_MAGIC = b"\x1f\x8b"
_READ_BYTES = 1 << 17
_LONGEST_FIELD = 1 << 16
_HEADER_CHECK, _EXTRA, _NAME, _COMMENT, _RESERVED = 2, 4, 8, 16, 0xE0


def open_gzip(path: Path) -> io.BufferedReader:
    """Open a gzip file, of one or more members, for reading its decompressed bytes.

    Reading raises BadGzipFile or zlib.error for damaged data, EOFError for truncated ones.
    """
    return io.BufferedReader(_GzipReader(path), _READ_BYTES)


class _GzipReader(io.RawIOBase):
    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed with this object
        self._input = b""
        self._member: Any = None
        self._checksum = self._size = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` with decompressed bytes; return their number, 0 at the end."""
        while self._member is not None or self._begin_member():
            self._input = self._input or self._file.read(_READ_BYTES)
            is_end = not self._input  # the member may have bytes left that did not fit before
            data = self._member.decompress(self._input, len(buffer))
            # at the member's end the tail may be what follows it, which ``unused_data`` has too
            self._input = b"" if self._member.eof else self._member.unconsumed_tail
            if data:
                buffer[: len(data)] = data
                self._checksum = zlib.crc32(data, self._checksum)
                self._size += len(data)
                return len(data)
            if self._member.eof:
                self._end_member()
            elif is_end:
                raise EOFError
        return 0

    def _begin_member(self) -> bool:
        """Read a member's header; return whether there is one."""
        self._input = self._input or self._file.read(_READ_BYTES)
        if not self._input:
            return False
        self._checksum = 0
        magic, method, flags, _ = struct.unpack("<2sBB6s", self._header(10))
        if magic != GZIP_MAGIC or method != 8:
            raise gzip.BadGzipFile("other bytes follow the end of the compressed data")
        if flags & _RESERVED:
            raise gzip.BadGzipFile("the header has flags that gzip does not define")
        if flags & _EXTRA:
            self._header(int.from_bytes(self._header(2), "little"))
        for flag in (_NAME, _COMMENT):
            if flags & flag:
                self._skip_text()
        if flags & _HEADER_CHECK:
            expected = self._checksum & 0xFFFF
            if int.from_bytes(self._take(2), "little") != expected:
                raise gzip.BadGzipFile("the checksum of the header is another")
        self._member = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        self._checksum = self._size = 0
        return True

    def _end_member(self) -> None:
        """Check the length and the checksum that follow a member."""
        self._input = self._member.unused_data
        self._member = None
        checksum, size = struct.unpack("<II", self._take(8))
        if (checksum, size) != (self._checksum, self._size & 0xFFFFFFFF):
            raise gzip.BadGzipFile("the checksum or the length of the data is another")

    def _take(self, count: int) -> bytes:
        """Return the next ``count`` bytes of the file."""
        while len(self._input) < count:
            more = self._file.read(_READ_BYTES)
            if not more:
                raise EOFError
            self._input += more
        taken, self._input = self._input[:count], self._input[count:]
        return taken

    def _header(self, count: int) -> bytes:
        """Return the next ``count`` bytes of a header, which its checksum counts."""
        taken = self._take(count)
        self._checksum = zlib.crc32(taken, self._checksum)
        return taken

    def _skip_text(self) -> None:
        for _ in range(_LONGEST_FIELD):
            if self._header(1) == b"\0":
                return
        raise gzip.BadGzipFile("the header has no end")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
