"""Numbers 32-bit values by first appearance, with an open-addressing table of 8-byte slots.

A slot holds the value in its upper half and its number + 1 in the lower, so a lookup touches
one cache line as a rule, and an all-zero slot is free.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.runtime.compile import jit
from dlrmjit_kernels.runtime.splitmix import GOLDEN

Integer = Any

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


@jit
def find_or_add(
    values: NDArray[np.uint32],
    slots: NDArray[np.uint64],
    known: NDArray[np.uint32],
    count: Integer,
    limit: Integer,
    ids: NDArray[np.int32],
) -> tuple[int, int]:
    """Write the number of each of ``values`` to ``ids``, adding new values to ``known``.

    ``slots`` has a power of two of entries, of which ``limit`` may be used. Returns how many
    values were numbered, fewer than all when the next one is new and finds the table full, and
    the count of known values.
    """
    mask = np.uint64(slots.size - 1)
    shift = np.uint64(64 - _bits(slots.size))
    for i in range(values.size):
        value = np.uint64(values[i])
        at = (value * GOLDEN) >> shift
        slot = slots[at]
        while slot != np.uint64(0) and (slot >> _SHIFT) != value:
            at = (at + np.uint64(1)) & mask
            slot = slots[at]
        if slot == np.uint64(0):
            if count >= limit:
                return i, count
            known[count] = values[i]
            count += 1
            slot = (value << _SHIFT) | np.uint64(count)
            slots[at] = slot
        ids[i] = np.int32(slot & _LOW) - np.int32(1)
    return values.size, count


@jit
def find(
    values: NDArray[np.uint32], slots: NDArray[np.uint64], missing: Integer, ids: NDArray[np.int32]
) -> int:
    """Write the number of each of ``values`` to ``ids``, ``missing`` for unknown ones.

    Returns how many were unknown.
    """
    mask = np.uint64(slots.size - 1)
    shift = np.uint64(64 - _bits(slots.size))
    unknown = 0
    for i in range(values.size):
        value = np.uint64(values[i])
        at = (value * GOLDEN) >> shift
        slot = slots[at]
        while slot != np.uint64(0) and (slot >> _SHIFT) != value:
            at = (at + np.uint64(1)) & mask
            slot = slots[at]
        if slot == np.uint64(0):
            ids[i] = missing
            unknown += 1
        else:
            ids[i] = np.int32(slot & _LOW) - np.int32(1)
    return unknown


@jit
def insert_known(known: NDArray[np.uint32], count: Integer, slots: NDArray[np.uint64]) -> None:
    """Fill the empty table ``slots`` with ``known[:count]``, numbered in order."""
    mask = np.uint64(slots.size - 1)
    shift = np.uint64(64 - _bits(slots.size))
    for i in range(count):
        value = np.uint64(known[i])
        at = (value * GOLDEN) >> shift
        while slots[at] != np.uint64(0):
            at = (at + np.uint64(1)) & mask
        slots[at] = (value << _SHIFT) | np.uint64(i + 1)


@jit
def count_ids(ids: NDArray[np.int32], counts: NDArray[np.int64]) -> None:
    """``counts[id] += 1`` for each of ``ids``."""
    for i in range(ids.size):
        counts[ids[i]] += 1


@jit
def replace_ids(ids: NDArray[np.int32], table: NDArray[np.int32]) -> None:
    """``ids = table[ids]`` in place."""
    for i in range(ids.size):
        ids[i] = table[ids[i]]


@jit
def hash_values(values: NDArray[np.uint32], rows: Integer, ids: NDArray[np.int32]) -> None:
    """``ids`` = a well-mixed hash of each value modulo ``rows`` (finaliser of MurmurHash3)."""
    for i in range(values.size):
        h = np.uint32(values[i])
        h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
        h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
        h = h ^ (h >> np.uint32(16))
        ids[i] = np.int32(np.uint64(h) % np.uint64(rows))


@jit
def _bits(size: Integer) -> int:
    bits = 0
    while (1 << bits) < size:
        bits += 1
    return bits
