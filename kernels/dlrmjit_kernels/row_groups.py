"""Gathers the lookups of a bucket by row: unique rows in order of first occurrence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.compile import jit
from dlrmjit_kernels.tasks import prefetch_row

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@jit
def hash_bits(distinct: int) -> int:
    """Bits of a hash table at most half full of ``distinct`` rows."""
    bits = 4
    while (1 << bits) < 2 * distinct:
        bits += 1
    return bits


@jit
def group_rows(
    entries: NDArray[np.uint64],
    shift: int,
    slots: NDArray[np.int32],
    rows: NDArray[np.int32],
    starts: NDArray[np.int32],
    table: int,
    row_bytes: int,
) -> int:
    """Number the distinct rows of ``entries`` and count them; how many there are.

    ``slots`` is the hash table, cleared here, of power of two size; ``shift`` the low bits that
    all rows share. Entry ``i`` has its row replaced by the row's number ``u``; ``rows[u]`` is
    the row, and ``starts[u]`` where its lookups begin in a list sorted by ``u``. Memory is idle
    meanwhile, so the rows, ``row_bytes`` long from address ``table`` on, start loading.
    """
    slots[:] = 0
    mask = len(slots) - 1
    width = np.uint64(64 - hash_bits(len(slots) // 2))
    unique = 0
    for i in range(len(entries)):
        row = entries[i] >> np.uint64(32)
        slot = np.int64(((row >> np.uint64(shift)) * _GOLDEN) >> width)
        while slots[slot] != 0 and rows[slots[slot] - 1] != np.int32(row):
            slot = (slot + 1) & mask
        if slots[slot] == 0:
            rows[unique] = np.int32(row)
            starts[unique + 2] = 0
            unique += 1
            slots[slot] = unique
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
    """List the bags, and scales if any, by row number, and bring ``starts`` to its final form."""
    for i in range(len(entries)):
        u = np.int64(entries[i] >> np.uint64(32))
        place = starts[u + 1]
        starts[u + 1] = place + 1
        bags[place] = np.int32(entries[i] & np.uint64(0xFFFFFFFF))
        if len(scales):
            sorted_scales[place] = scales[i]
