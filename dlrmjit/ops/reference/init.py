"""First values of embedding tables from a counter, in NumPy: those of the kernels, bit for bit."""

from __future__ import annotations

import numpy as np

from dlrmjit.ops.backend import Origin, StoredArray
from dlrmjit.ops.random_masks import drawn, mix

_CHUNK = 1 << 18  # elements drawn at a time


def fill_uniform(table: StoredArray, seed: int, origin: Origin) -> None:
    """Fill ``table`` with uniform draws within 1 / sqrt(M) of 0; ``origin`` says what it is."""
    rows, width = table.shape
    stream = mix((seed + mix(origin.number + 1)) % 2**64)
    scale = np.float32(np.sqrt(1.0 / origin.rows)) * np.float32(2.0**-24)
    columns = origin.first_col + np.arange(width)
    step = max(1, _CHUNK // width)
    for first in range(0, rows, step):
        own = np.arange(first, min(first + step, rows))
        places = (origin.first_row + own[:, None] * origin.row_step) * origin.dim + columns
        bits = drawn(stream, places.astype(np.uint64)) >> np.uint64(40)
        table[first : first + step] = (bits.astype(np.int64) * 2 - 16777215) * scale
