"""Columns in flat files, written and read by position.

Files are not mapped into memory, because mapped pages count as resident and would exceed the
memory bound of a preparation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dlrmjit.errors import DataError
from dlrmjit.files import open_work_file, remove_work_file, sync_file

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
                raise _too_short(self.path)
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

    def remove(self) -> None:
        """Close and delete the file."""
        self.close()
        remove_work_file(self.path)

    def __enter__(self) -> FlatFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Column(Protocol):
    """A column to read, in one file or several."""

    dtype: np.dtype[Any]

    def __len__(self) -> int:
        """Number of rows."""

    def read(self, row: int, out: NDArray[Any]) -> None:
        """Fill C-contiguous ``out``, starting at ``row``; raise DataError at the end."""

    def close(self) -> None:
        """Close the files."""

    def remove(self) -> None:
        """Close and delete the files."""

    def __enter__(self) -> Column: ...

    def __exit__(self, *_: object) -> None: ...


class JoinedFiles:
    """A column in several files, whose rows follow each other.

    A file is opened for every read, because there may be more than a process may have open, and
    because another host may have written it.
    """

    def __init__(self, paths: Sequence[Path], dtype: DTypeLike) -> None:
        self._paths, self.dtype = paths, np.dtype(dtype)
        self._ends: list[int] = []
        for path in paths:
            with FlatFile(path, dtype) as file:
                self._ends.append(len(self) + len(file))

    def __len__(self) -> int:
        """Number of rows in all files."""
        return self._ends[-1] if self._ends else 0

    def read(self, row: int, out: NDArray[Any]) -> None:
        """Fill C-contiguous ``out``, starting at ``row``; raise DataError at the end."""
        last = row + len(out)
        if last > len(self):
            raise _too_short(self._paths[-1])
        starts = [0, *self._ends]
        for path, start, end in zip(self._paths, starts, self._ends, strict=False):
            first, stop = max(row, start), min(last, end)
            if first < stop:
                with FlatFile(path, self.dtype) as file:
                    file.read(first - start, out[first - row : stop - row])

    def close(self) -> None:
        """Do nothing: no file is open."""

    def remove(self) -> None:
        """Delete the files."""
        for path in self._paths:
            remove_work_file(path)

    def __enter__(self) -> JoinedFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _too_short(path: Path) -> DataError:
    return DataError(f"{path} is shorter than the journal says; start over without --resume")


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
