"""Encodes 32-bit values by order of first appearance, in an open-addressing hash table.

A slot has the value in its high 32 bits and its id + 1 in the low ones, so a look-up touches one
cache line as a rule, and an all-zero slot is free.
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
    """Write the id of each of ``values`` to ``ids``, adding new values to ``known``.

    ``slots`` has a power of two of entries, of which ``limit`` may be used. Returns how many
    values were encoded, fewer than all if the next one is new and the table is full, and the
    number of known values.
    """
    mask, shift = _mask_and_shift(slots)
    for i in range(values.size):
        value = np.uint64(values[i])
        at, slot = _probe(value, slots, mask, shift)
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
    """Write the id of each of ``values`` to ``ids``, ``missing`` for unknown ones.

    Returns how many were unknown.
    """
    mask, shift = _mask_and_shift(slots)
    unknown = 0
    for i in range(values.size):
        _, slot = _probe(np.uint64(values[i]), slots, mask, shift)
        ids[i] = np.int32(slot & _LOW) - np.int32(1)
        if slot == np.uint64(0):  # overwriting is faster than an else branch
            ids[i] = missing
            unknown += 1
    return unknown


@jit
def insert_known(known: NDArray[np.uint32], count: Integer, slots: NDArray[np.uint64]) -> None:
    """Fill the empty table ``slots`` with the distinct values ``known[:count]``, ids in order."""
    mask, shift = _mask_and_shift(slots)
    for i in range(count):
        value = np.uint64(known[i])
        at, _ = _probe(value, slots, mask, shift)
        slots[at] = (value << _SHIFT) | np.uint64(i + 1)


@jit
def _probe(
    value: Integer, slots: NDArray[np.uint64], mask: Integer, shift: Integer
) -> tuple[Integer, Integer]:
    """Return position and contents of the slot of a value, or of the free one where it belongs."""
    at = (value * GOLDEN) >> shift  # Fibonacci hashing (Knuth, TAOCP 3, 6.4)
    slot = slots[at]
    while slot != np.uint64(0) and (slot >> _SHIFT) != value:
        at = (at + np.uint64(1)) & mask
        slot = slots[at]
    return at, slot


@jit
def _mask_and_shift(slots: NDArray[np.uint64]) -> tuple[Integer, Integer]:
    """Return what makes a position in ``slots`` of an index, and of a hash of 64 bits."""
    bits = 0
    while (1 << bits) < slots.size:
        bits += 1
    return np.uint64(slots.size - 1), np.uint64(64 - bits)


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
    """``ids`` = hash of each value modulo ``rows``, by the finaliser of MurmurHash3."""
    for i in range(values.size):
        h = np.uint32(values[i])
        h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
        h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
        h = h ^ (h >> np.uint32(16))
        ids[i] = np.int32(np.uint64(h) % np.uint64(rows))
