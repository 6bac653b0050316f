"""Text values: extracted from lines, hashed, and encoded by order of first appearance.

A sequence of values is their concatenated bytes and the length of each. A vocabulary is the
concatenated bytes of its values (the heap), the end of each, and an open-addressing hash table
of (high 32 bits of the hash, id + 1). Bytes are compared, so a hash collision merges no values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.runtime.compile import jit
from dlrmjit_kernels.runtime.splitmix import mix

Integer = Any

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_QUOTE = 34
_FNV_BASIS, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


@jit
def extract_values(
    text: NDArray[np.uint8],
    firsts: NDArray[Any],
    stops: NDArray[Any],
    separator: Integer,
    counts: NDArray[np.int32],
    lengths: NDArray[np.int32],
    out: NDArray[np.uint8],
) -> tuple[int, int]:
    """Copy the values of fields ``text[firsts[r]:stops[r]]``.

    A negative stop is that of a quoted field, -1 - stop, whose doubled quotes become one. A
    ``separator`` >= 0 divides a field into values, of which empty ones are dropped. ``counts``
    (rows,) gets the number of values per row, ``lengths`` and ``out`` the lengths and bytes of all.

    Returns the number of values and of their bytes.
    """
    values, size = 0, 0
    for r in range(firsts.size):
        at, stop = firsts[r], stops[r]
        quoted = stop < 0
        if quoted:
            stop = -1 - stop
        before, begin = values, size
        while at < stop:
            byte = text[at]
            at += 1
            if quoted and byte == _QUOTE:
                at += 1
            if byte == separator:
                if size > begin:
                    lengths[values] = size - begin
                    values += 1
                    begin = size
                continue
            out[size] = byte
            size += 1
        if separator < 0 or size > begin:
            lengths[values] = size - begin
            values += 1
        counts[r] = values - before
    return values, size


@jit
def equals_any(
    text: NDArray[np.uint8],
    first: Integer,
    stop: Integer,
    texts: NDArray[np.uint8],
    ends: NDArray[np.int64],
) -> bool:
    """Return whether ``text[first:stop]`` is one of ``texts``, which end at ``ends``."""
    start = 0
    for k in range(ends.size):
        if ends[k] - start == stop - first:
            same = True
            for i in range(stop - first):
                if texts[start + i] != text[first + i]:
                    same = False
                    break
            if same:
                return True
        start = ends[k]
    return False


@jit
def drop_missing(
    text: NDArray[np.uint8],
    lengths: NDArray[np.int32],
    counts: NDArray[np.int32],
    is_multi: bool,
    texts: NDArray[np.uint8],
    ends: NDArray[np.int64],
) -> tuple[int, int]:
    """Make values that equal one of ``texts`` missing, in place; return the values and bytes left.

    A missing value has length 0. With ``is_multi``, it is left out, also of ``counts`` (rows,).
    """
    at, value, values, size = 0, 0, 0, 0
    for r in range(counts.size):
        left = 0
        for _ in range(counts[r]):
            stop = at + lengths[value]
            if at == stop or equals_any(text, at, stop, texts, ends):
                if not is_multi:
                    lengths[values] = 0
                    values += 1
                    left += 1
            else:
                for i in range(at, stop):
                    text[size] = text[i]
                    size += 1
                lengths[values] = stop - at
                values += 1
                left += 1
            at = stop
            value += 1
        counts[r] = left
    return values, size


@jit
def _hashed(text: NDArray[np.uint8], first: Integer, end: Integer) -> Integer:
    """Return a 64-bit hash of ``text[first:end]``: FNV-1a, then SplitMix64's output function."""
    h = _FNV_BASIS
    for i in range(first, end):
        h = (h ^ np.uint64(text[i])) * _FNV_PRIME
    return mix(h)


@jit
def hash_texts(
    text: NDArray[np.uint8], lengths: NDArray[np.int32], rows: Integer, ids: NDArray[np.int32]
) -> None:
    """``ids`` = hash of each value modulo ``rows``."""
    at = 0
    for i in range(lengths.size):
        ids[i] = np.int32(_hashed(text, at, at + lengths[i]) % np.uint64(rows))
        at += lengths[i]


@jit
def hash_keys(text: NDArray[np.uint8], lengths: NDArray[np.int32], keys: NDArray[np.int64]) -> None:
    """``keys`` = the 64-bit hash of each value, which saved models depend on."""
    at = 0
    for i in range(lengths.size):
        keys[i] = np.int64(_hashed(text, at, at + lengths[i]))
        at += lengths[i]


@jit
def _probe(
    text: NDArray[np.uint8],
    first: Integer,
    end: Integer,
    slots: NDArray[np.uint64],
    heap: NDArray[np.uint8],
    ends: NDArray[np.int64],
) -> tuple[int, Integer]:
    """Return the slot of a value, or the free one where it belongs, and its hash's high bits."""
    h = _hashed(text, first, end)
    mask = np.uint64(slots.size - 1)
    at, high_bits = h & mask, h >> _SHIFT
    while slots[at] != np.uint64(0):
        if (slots[at] >> _SHIFT) == high_bits:
            known = np.int64(slots[at] & _LOW) - 1
            start = ends[known - 1] if known else 0
            if ends[known] - start == end - first:
                same = True
                for i in range(end - first):
                    if heap[start + i] != text[first + i]:
                        same = False
                        break
                if same:
                    break
        at = (at + np.uint64(1)) & mask
    return np.int64(at), high_bits


@jit
def find_or_add_texts(
    text: NDArray[np.uint8],
    lengths: NDArray[np.int32],
    slots: NDArray[np.uint64],
    heap: NDArray[np.uint8],
    ends: NDArray[np.int64],
    count: Integer,
    limit: Integer,
    ids: NDArray[np.int32],
) -> tuple[int, int, int]:
    """Write the id of each value to ``ids``, adding new values to ``heap`` and ``ends``.

    ``slots`` has a power of two of entries, of which ``limit`` may be used. Returns the number of
    values encoded and of their bytes, fewer than all if the next one is new and does not fit, and
    the number of known values.
    """
    at = 0
    for i in range(lengths.size):
        end = at + lengths[i]
        position, high_bits = _probe(text, at, end, slots, heap, ends)
        slot = slots[position]
        if slot == np.uint64(0):
            start = ends[count - 1] if count else 0
            if count >= limit or start + lengths[i] > heap.size:
                return i, at, count
            for k in range(lengths[i]):
                heap[start + k] = text[at + k]
            ends[count] = start + lengths[i]
            count += 1
            slot = (high_bits << _SHIFT) | np.uint64(count)
            slots[position] = slot
        ids[i] = np.int32(slot & _LOW) - np.int32(1)
        at = end
    return lengths.size, at, count


@jit
def find_texts(
    text: NDArray[np.uint8],
    lengths: NDArray[np.int32],
    slots: NDArray[np.uint64],
    heap: NDArray[np.uint8],
    ends: NDArray[np.int64],
    missing: Integer,
    ids: NDArray[np.int32],
) -> None:
    """Write the id of each value to ``ids``, ``missing`` for unknown ones."""
    at = 0
    for i in range(lengths.size):
        position, _ = _probe(text, at, at + lengths[i], slots, heap, ends)
        slot = slots[position]
        ids[i] = missing if slot == np.uint64(0) else np.int32(slot & _LOW) - np.int32(1)
        at += lengths[i]


@jit
def insert_texts(
    heap: NDArray[np.uint8],
    ends: NDArray[np.int64],
    first: Integer,
    count: Integer,
    slots: NDArray[np.uint64],
) -> None:
    """Fill the empty table ``slots`` with known values ``first`` to ``count``."""
    for value in range(first, count):
        start = ends[value - 1] if value else 0
        position, high_bits = _probe(heap, start, ends[value], slots, heap, ends)
        slots[position] = (high_bits << _SHIFT) | np.uint64(value + 1)


@jit
def select_texts(
    heap: NDArray[np.uint8],
    ends: NDArray[np.int64],
    chosen: NDArray[np.int64],
    out: NDArray[np.uint8],
    out_ends: NDArray[np.int64],
) -> None:
    """Copy the values ``chosen`` to ``out``, and the end of each to ``out_ends``."""
    at = 0
    for k in range(chosen.size):
        value = chosen[k]
        start = ends[value - 1] if value else 0
        for i in range(start, ends[value]):
            out[at] = heap[i]
            at += 1
        out_ends[k] = at
