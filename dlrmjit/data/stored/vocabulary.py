"""Vocabularies of prepared sets, checked before a kernel follows their positions."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.stored.npy import map_array, read_header
from dlrmjit.data.stored.npz import read_npz
from dlrmjit.errors import DataError

Texts = tuple[NDArray[np.uint8], NDArray[np.int64]]


def read_hashes(source: Path | bytes, origin: object, rows: int) -> NDArray[np.uint32]:
    """Return the hash of each of ``rows`` ids from a ``.npy`` file or its content.

    Raises DataError for anything else; ``origin`` names it.
    """
    hashes = _array_of(source, str(origin)) if isinstance(source, bytes) else map_array(source)
    if hashes.dtype != np.uint32 or hashes.ndim != 1 or not _is_complete(len(hashes), rows):
        raise DataError(
            f"{origin} holds {hashes.dtype} of shape {hashes.shape}, expected the hashes (uint32) "
            f"of {rows} rows"
        )
    return np.array(hashes)


def read_texts(source: Path | bytes, origin: object, rows: int) -> Texts:
    """Return the bytes of the texts of ``rows`` ids, and the position after each, from an ``.npz``.

    Raises DataError for positions that decrease or leave the bytes, and for anything else.
    """
    shapes = {"bytes": (None,), "ends": (None,)}
    if isinstance(source, bytes):
        arrays = read_npz(str(origin), shapes, archive=io.BytesIO(source))
    else:
        arrays = read_npz(source, shapes)
    heap, ends = arrays["bytes"], arrays["ends"]
    if heap.dtype != np.uint8 or ends.dtype != np.int64 or not _is_complete(len(ends), rows):
        raise DataError(
            f"{origin} holds {heap.dtype} and {ends.dtype} of {len(ends)} texts, expected the "
            f"bytes (uint8) and ends (int64) of {rows} rows"
        )
    bounds = np.concatenate([[0], ends, [len(heap)]])
    last = int(ends[-1]) if len(ends) else 0
    if (bounds[1:] < bounds[:-1]).any() or last != len(heap):  # differences might wrap around
        raise DataError(
            f"{origin}: the ends of its texts do not divide its {len(heap)} bytes; it is damaged"
        )
    return heap, ends


def _is_complete(found: int, rows: int) -> bool:
    """Return whether a vocabulary has a value for each row; a column of none has one row."""
    return found == rows or (found == 0 and rows == 1)


def _array_of(content: bytes, origin: str) -> NDArray[Any]:
    header = read_header(io.BytesIO(content), origin)
    if len(content) - header.offset != header.nbytes:
        raise DataError(f"{origin}: its length is not that of {header.dtype} {header.shape}")
    flat = np.frombuffer(content, header.dtype, offset=header.offset)
    return flat.reshape(header.shape, order=header.order)
