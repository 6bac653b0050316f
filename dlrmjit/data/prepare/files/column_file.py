"""Columns in flat files, written and read by position.

Nothing is mapped into memory: mapped pages would count as resident and break the bound that
the caller was promised.
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


class FlatFile:
    """A file of fixed-size elements, addressed by element; an optional header is left alone."""

    def __init__(self, path: Path, dtype: DTypeLike, *, header: int = 0, width: int = 1) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self._header = header
        self._row_bytes = self.dtype.itemsize * width
        with writing(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def __len__(self) -> int:
        """Rows that the file holds."""
        return (os.fstat(self._file).st_size - self._header) // self._row_bytes

    def write_header(self, header: bytes) -> None:
        """Write what precedes the elements."""
        self._write_at(0, memoryview(header))

    def write(self, row: int, values: NDArray[Any]) -> None:
        """Write C-contiguous ``values`` of the file's dtype from ``row`` on."""
        if values.size:
            self._write_at(
                self._header + row * self._row_bytes, values.reshape(-1).view(np.uint8).data
            )

    def _write_at(self, at: int, left: memoryview) -> None:
        with writing(self.path):
            while left:
                written = os.pwrite(self._file, left, at)
                at, left = at + written, left[written:]

    def read(self, row: int, out: NDArray[Any]) -> None:
        """Fill C-contiguous ``out`` from ``row`` on; raises DataError when the file ends before."""
        if not out.size:
            return
        at, left = self._header + row * self._row_bytes, out.reshape(-1).view(np.uint8).data
        while left:
            got = os.preadv(self._file, [left], at)
            if got == 0:
                raise DataError(f"{self.path} is shorter than the journal says; start over")
            at, left = at + got, left[got:]

    def cut(self, rows: int) -> None:
        """Keep the first ``rows`` rows."""
        os.ftruncate(self._file, self._header + rows * self._row_bytes)

    def sync(self) -> None:
        """Return when the disk has it all."""
        with writing(self.path):
            os.fsync(self._file)

    def close(self) -> None:
        """Release the file."""
        os.close(self._file)

    def __enter__(self) -> FlatFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what can go wrong while ``path`` is written into a DataError that names it."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> DataError:
    """An error for a file that could not be written, with what to do about it."""
    return DataError(
        f"{path} cannot be written: {error.strerror}; free some space or choose another --out, "
        "then repeat the command with --resume"
    )
