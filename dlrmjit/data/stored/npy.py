"""NumPy's ``.npy`` files: the header, checked, and the array mapped into memory or read."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.errors import DataError
from dlrmjit.files import is_possible_shape, refuse_special

_KINDS = "biuf"


@dataclass(frozen=True)
class Header:
    """Shape, order and type of an array, and the position of its first byte in the file."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def order(self) -> Any:
        """NumPy's letter of the order."""
        return "F" if self.fortran else "C"


def map_array(path: Path) -> NDArray[Any]:
    """Return the numbers of a ``.npy`` file, mapped into memory.

    Raises DataError for a file that cannot be read, is damaged, holds anything but numbers, or has
    another length than its header says.
    """
    refuse_special(path)
    try:
        with open(path, "rb") as file:
            header = read_header(file, str(path))
            size = os.fstat(file.fileno()).st_size - header.offset
        if size != header.nbytes:
            raise DataError(
                f"{path} has {size} bytes after its header, but {header.dtype} of shape "
                f"{header.shape} need {header.nbytes}; it is truncated or was changed"
            )
        return map_at(path, header)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def map_at(path: Path, header: Header) -> NDArray[Any]:
    """Return the array that ``header`` describes in ``path``, whose size was checked."""
    if not header.nbytes:  # cannot be mapped
        return np.empty(header.shape, header.dtype, header.order)
    mapped: NDArray[Any] = np.memmap(
        path, header.dtype, "r", header.offset, header.shape, header.order
    )
    return mapped.view(np.ndarray)


def read_header(file: IO[bytes], name: str) -> Header:
    """Read the header of an array of numbers and return it; ``file`` is then at the first byte.

    Raises DataError for anything else.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"version {version[0]}.{version[1]} of the format is not supported")
        shape, fortran, dtype = read(file)
    except OSError:
        raise
    except Exception as error:  # the header is evaluated as Python, which fails in many ways
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{name} is not a complete .npy array of numbers ({reason[:100]})"
        ) from None
    if dtype.kind not in _KINDS or dtype.names or not dtype.isnative:
        raise DataError(f"{name} holds {dtype}, expected numbers in this machine's byte order")
    if not is_possible_shape(shape, dtype.itemsize):
        raise DataError(f"{name} has shape {shape}, which no array has")
    return Header(shape, bool(fortran), dtype, file.tell())
