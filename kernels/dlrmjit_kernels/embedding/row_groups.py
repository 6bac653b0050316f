"""Groups the lookups of a bucket by row: a list of rows, and for each the chain of its lookups.

Rules other than plain SGD need the whole gradient of a row before they update it. Sorting the
bucket would move every entry several times; chaining touches each once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.embedding.lookup_sort import BITS
from dlrmjit_kernels.runtime.compile import jit
from dlrmjit_kernels.runtime.splitmix import GOLDEN
from dlrmjit_kernels.runtime.unsafe import prefetch_row

_DIRECT = 16  # keys per lookup up to which clearing a slot per key is cheaper than hashing
_PER_PREFETCH = 8  # lookups grouped in the time in which memory delivers a row of 512 bytes
_EARLY_BYTES = 128 << 10  # a part of the second-level cache
_U = np.uint64


@jit
def table_size(lookups: int, keys: int) -> int:
    """Return the size of the table that finds a row again, for a bucket of ``lookups`` lookups.

    One slot for each of the ``keys`` possible keys if those are few, else a hash table that is at
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
    heads: NDArray[np.int32],
    links: NDArray[np.int32],
    table: int,
    row_bytes: int,
) -> int:
    """Chain the lookups of every distinct row of ``entries``; return the number of such rows.

    Entries count from 1, so that 0 can mean none. ``heads[u]`` is the first lookup of the u-th
    row, in order of occurrence, and ``links[i]`` the next lookup of the row of entry ``i``, or 0;
    ``links[0]`` is undefined. ``slots`` has :func:`table_size` elements, whose contents do not
    matter; ``keys`` is as there. The key of a row is what remains without its ``shift`` low bits,
    which are the same throughout a bucket. ``heads`` needs one element more than there are rows.

    Memory would be idle meanwhile, so the first rows that the update will read are prefetched from
    ``table``, the address of rows ``row_bytes`` apart.
    """
    early = _U(_EARLY_BYTES // row_bytes)
    slots[:] = 0  # slot -> last entry of the row so far
    mask, direct = _U(len(slots) - 1), len(slots) == keys
    unique, number = _U(0), _U(0)
    while number < _U(len(entries)):  # unsigned throughout: Numba tests signed indices for < 0
        if number % _U(_PER_PREFETCH) == 0 and number // _U(_PER_PREFETCH) < early:
            first = np.int64(entries[number // _U(_PER_PREFETCH)] >> _U(32))
            prefetch_row(table + first * row_bytes, row_bytes)
        row = entries[number] >> _U(32)
        slot = row >> _U(shift)
        if not direct:
            start = ((slot * GOLDEN) >> _U(40)) & mask  # Fibonacci hashing (Knuth, TAOCP 3, 6.4)
            slot = _find_slot(entries, row, start, slots, mask)
        last = _U(slots[slot])
        number += _U(1)
        slots[slot] = np.int32(number)
        links[number] = 0
        # No branch asks whether the row is new, because it could not be predicted. For a new row
        # the link goes to links[0], which nothing reads; for a known one the head is overwritten
        # by the next new row, or is the extra element behind the last head.
        links[last] = np.int32(number)
        heads[unique] = np.int32(number)
        unique += _U(last == 0)
    return int(unique)


@jit
def _find_slot(
    entries: NDArray[np.uint64], row: Any, slot: Any, slots: NDArray[np.int32], mask: Any
) -> Any:
    """Return the slot of a row in the hash table, or the free slot for it (linear probing)."""
    while slots[slot] != 0 and entries[_U(slots[slot]) - _U(1)] >> _U(32) != row:
        slot = (slot + _U(1)) & mask
    return slot


@jit
def group_space(
    rows: NDArray[np.int64],
    begin: NDArray[np.int64],
    plan: NDArray[np.int64],
    bucket_tables: NDArray[np.int32],
) -> int:
    """Return the most int32 elements that grouping any of the buckets takes."""
    most = 0
    for b in range(len(bucket_tables)):
        s = bucket_tables[b]
        lookups, keys = begin[b + 1] - begin[b], (rows[s] >> plan[s, BITS]) + 1
        most = max(most, table_size(lookups, keys) + 2 * lookups + 2)
    return most
