"""Columns in flat files, written and read by position.

Files are not mapped into memory, because mapped pages count as resident and would exceed the
memory bound of a preparation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dlrmjit.errors import DataError
from dlrmjit.files import open_work_file, sync_file

_PIECE = 1 << 18
"""Bytes of one write: of more, Linux looks for pages so large that it may spend 3 times as long."""


class FlatFile:
    """A file of fixed-size rows after an optional header, addressed by row."""

    def __init__(self, path: Path, dtype: DTypeLike, *, header: int = 0, width: int = 1) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self._header = header
        self._row_bytes = self.dtype.itemsize * width
        with writing(path):
            self._file = open_work_file(path)

    def __len__(self) -> int:
        """Number of rows in the file."""
        return (os.fstat(self._file).st_size - self._header) // self._row_bytes

    def write_header(self, header: bytes) -> None:
        """Write the header."""
        self._write_at(0, memoryview(header))

    def write(self, row: int, values: NDArray[Any]) -> None:
        """Write C-contiguous ``values`` of the file's dtype, starting at ``row``."""
        if values.size:
            self._write_at(
                self._header + row * self._row_bytes, values.reshape(-1).view(np.uint8).data
            )

    def _write_at(self, position: int, left: memoryview) -> None:
        with writing(self.path):
            while left:
                written = os.pwrite(self._file, left[:_PIECE], position)
                position, left = position + written, left[written:]

    def read(self, row: int, out: NDArray[Any]) -> None:
        """Fill C-contiguous ``out``, starting at ``row``; raise DataError at the file's end."""
        if not out.size:
            return
        position = self._header + row * self._row_bytes
        left = out.reshape(-1).view(np.uint8).data
        while left:
            got = os.preadv(self._file, [left], position)
            if got == 0:
                raise DataError(
                    f"{self.path} is shorter than the journal says; start over without --resume"
                )
            position, left = position + got, left[got:]

    def cut(self, rows: int) -> None:
        """Truncate the file to its first ``rows`` rows."""
        os.ftruncate(self._file, self._header + rows * self._row_bytes)

    def sync(self) -> None:
        """Flush the file to the disk."""
        with writing(self.path):
            sync_file(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> FlatFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an OSError while ``path`` is written into a DataError that names it."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> DataError:
    """Return the error for a file that could not be written, with what to do."""
    return DataError(
        f"{path} cannot be written: {error.strerror}; free some space or choose another --out, "
        "then repeat the command with --resume"
    )
