"""A reader of Zstandard, which pyarrow decompresses, so that logs are read as they are stored.

Nothing is accepted after the compressed data, as of gzip.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from dlrmjit.data.formats.arrow import require_arrow

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_READ_BYTES = 1 << 17


class DamagedZstdError(Exception):
    """Compressed data that are damaged, or followed by other bytes."""


def open_zstd(path: Path) -> io.BufferedReader:
    """Open a Zstandard file, of one or more frames, for reading its decompressed bytes.

    Reading raises DamagedZstdError for damaged data, EOFError for truncated ones. Raises
    ConfigError without pyarrow.
    """
    return io.BufferedReader(_ZstdReader(path), _READ_BYTES)


class _ZstdReader(io.RawIOBase):
    def __init__(self, path: Path) -> None:
        what = f"{path} is compressed by Zstandard, which needs"
        arrow, _ = require_arrow("decompress it first", what)
        self._stream: Any = arrow.CompressedInputStream(arrow.OSFile(str(path)), "zstd")

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` with decompressed bytes; return their number, 0 at the end."""
        try:
            return int(self._stream.readinto(buffer))
        except OSError as error:
            if "truncated" in str(error).lower():
                raise EOFError from None
            raise DamagedZstdError(str(error)) from None

    def close(self) -> None:
        """Close the file."""
        if not self.closed and hasattr(self, "_stream"):
            self._stream.close()
        super().close()
