"""Gathers the lookups of a bucket by row: unique rows in order of first occurrence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.compile import jit
from dlrmjit_kernels.tasks import prefetch_row

_DIRECT = 16  # keys per lookup up to which clearing a slot per key is cheaper than hashing
_PRIMED = 64  # rows whose loads are started while grouping
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@jit
def table_size(lookups: int, keys: int) -> int:
    """Slots to find the rows of a bucket again: one per key if that is few, else a hash table.

    A bucket has ``lookups`` lookups of rows with ``keys`` possible keys. The hash table is at
    most half full.
    """
    if keys <= _DIRECT * lookups:
        return keys
    size = 16
    while size < 2 * lookups:
        size *= 2
    return size


@jit
def group_rows(
    entries: NDArray[np.uint64],
    shift: int,
    keys: int,
    slots: NDArray[np.int32],
    rows: NDArray[np.int32],
    starts: NDArray[np.int32],
    table: int,
    row_bytes: int,
) -> int:
    """Number the distinct rows of ``entries`` and count them; how many there are.

    ``slots`` is a table of :func:`table_size`, cleared here, ``keys`` as there; the key of a
    row is what its ``shift`` low bits leave. Entry ``i`` has its row replaced by the row's
    number ``u``; ``rows[u]`` is the row, and ``starts[u + 1]`` where its lookups begin in a
    list sorted by ``u``. The first rows, ``row_bytes`` long from address ``table`` on, start
    loading for what comes next.
    """
    slots[:] = 0
    mask = len(slots) - 1
    direct = len(slots) == keys
    unique = 0
    for i in range(len(entries)):
        row = entries[i] >> np.uint64(32)
        key = row >> np.uint64(shift)
        slot = np.int64(key) if direct else np.int64((key * _GOLDEN) >> np.uint64(40)) & mask
        while slots[slot] != 0 and rows[slots[slot] - 1] != np.int32(row):
            slot = (slot + 1) & mask
        if slots[slot] == 0:
            rows[unique] = np.int32(row)
            starts[unique + 2] = 0
            unique += 1
            slots[slot] = unique
            if unique <= _PRIMED:
                prefetch_row(table + np.int64(row) * row_bytes, row_bytes)
        u = slots[slot] - 1
        starts[u + 2] += 1
        entries[i] = (np.uint64(u) << np.uint64(32)) | (entries[i] & np.uint64(0xFFFFFFFF))
    starts[0] = 0
    starts[1] = 0
    for u in range(2, unique + 1):
        starts[u] += starts[u - 1]
    return unique


@jit
def order_bags(
    entries: NDArray[np.uint64],
    scales: NDArray[np.float32],
    starts: NDArray[np.int32],
    bags: NDArray[np.int32],
    sorted_scales: NDArray[np.float32],
) -> None:
    """List the bags, and scales if any, by row number; ``starts[u]`` is then where ``u`` begins."""
    for i in range(len(entries)):
        u = np.int64(entries[i] >> np.uint64(32))
        place = starts[u + 1]
        starts[u + 1] = place + 1
        bags[place] = np.int32(entries[i] & np.uint64(0xFFFFFFFF))
        if len(scales):
            sorted_scales[place] = scales[i]
