"""Initial values of embedding tables from a counter, in NumPy, with the bits of the kernels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dlrmjit.ops.backend import Origin, StoredArray
from dlrmjit.ops.random_masks import draws, mix

_CHUNK = 1 << 18  # elements drawn at a time


def fill_uniform(table: StoredArray, seed: int, origin: Origin) -> None:
    """Fill ``table`` with uniform numbers within 1 / sqrt(M) of 0, M the rows of its origin.

    ``origin`` says which part of the model ``table`` is.
    """
    rows, width = table.shape
    stream = mix((seed + mix(origin.table_id + 1)) % 2**64)
    scale = np.float32(np.sqrt(1.0 / origin.rows)) * np.float32(2.0**-24)
    columns = origin.first_col + np.arange(width)
    step = max(1, _CHUNK // width)
    for first in range(0, rows, step):
        own_rows = np.arange(first, min(first + step, rows))
        elements = (origin.first_row + own_rows[:, None] * origin.row_step) * origin.dim + columns
        bits = draws(stream, elements.astype(np.uint64)) >> np.uint64(40)
        table[first : first + step] = (bits.astype(np.int64) * 2 - 16777215) * scale


def fill_by_key(
    table: StoredArray,
    rows: NDArray[np.int64],
    keys: NDArray[np.int64],
    seed: int,
    origin: Origin,
) -> None:
    """Draw some rows of ``table`` by their keys, whichever rows these are."""
    stream = np.uint64(mix((seed + mix(origin.table_id + 1)) % 2**64))
    scale = np.float32(np.sqrt(1.0 / origin.rows)) * np.float32(2.0**-24)
    own = [mix(int(stream ^ np.uint64(mix(int(key))))) for key in keys.astype(np.uint64)]
    columns = np.arange(table.shape[1], dtype=np.uint64)
    for row, of_key in zip(rows.tolist(), own, strict=True):
        bits = draws(of_key, columns) >> np.uint64(40)
        table[row] = (bits.astype(np.int64) * 2 - 16777215) * scale
