"""Tables that only predict, in fewer bits: BF16 by rounding, or 8 bits with a scale per row."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from dlrmjit_kernels.embedding.int8 import Int8Tables

from dlrmjit.config.model import IN_MEMORY

Reduced = Literal["bf16", "int8"]
_CHUNK = 1 << 16  # rows rounded at a time


def read_only(backend: Any, tables: Any, kind: Reduced) -> Any:
    """Return tables rounded to ``kind``, of which lookups read half or a quarter of the bytes.

    BF16 tables are Split-BF16 whose low bits are never touched, so they take no memory.
    """
    dims = tuple(tables.table(s).shape[1] for s in range(len(tables)))
    if kind == "int8":
        small = Int8Tables(tables.rows, dims)
        for s in range(len(tables)):
            small.assign(s, tables.table(s))
        return small
    wide = dims[0] if len(set(dims)) == 1 else dims
    made = backend.tables(tables.rows, wide, "bf16", IN_MEMORY)
    for s, rows in enumerate(tables.rows):
        high, values = made.table(s).high, tables.table(s)
        for first in range(0, rows, _CHUNK):
            bits = np.array(values[first : first + _CHUNK], np.float32).view(np.uint32)
            odd = (bits >> np.uint32(16)) & np.uint32(1)
            high[first : first + len(bits)] = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
    return made
