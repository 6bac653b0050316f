"""Loops over open-addressing hash tables from 64-bit keys to rows.

A slot is two int64: a key and a word. The word is 0 where the slot is free; its high 32 bits are
the step in which the key was last seen, its low ones the key's row + 1, or for a key without a row
``WAITING`` plus how often it has been seen. Four slots are a bucket, one cache line, which a
look-up compares as a whole: a branch per slot would be mispredicted half of the time. A bucket is
filled from its first slot on, and a key that finds its own full is in one of those after it; so a
look-up reads one cache line as a rule.

A look-up changes nothing but steps, so threads may share it: all that meet a key write the same.
New keys are inserted by one thread per table in the order of the batch, so that rows depend on the
keys alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.splitmix import GOLDEN

Int64 = NDArray[np.int64]
Integer = Any

SLOT_BYTES = 16
BUCKET = 4
"""Slots of a cache line."""
_LINE = BUCKET * SLOT_BYTES
WAITING = 1 << 31
"""Set in the word of a key that has no row yet."""
_LOW = (1 << 32) - 1
_AHEAD = 32  # look-ups between the prefetch of a bucket and its use
_SOON = 12  # look-ups between a look at the bucket, which may be full, and its use
_CHUNK = 4096  # look-ups of a task

ENTRIES, WITHOUT_ROW, USED, NEXT_FREE, FREE = range(5)
"""Positions in the ``counts`` of a table: occupied slots; those of keys without a row; rows that
have ever been used; position of the next free one among those that were given back; their number.
"""


class Tables(NamedTuple):
    """Hash tables as compiled loops see them.

    Of each the address, the number of buckets - 1, and 64 less the logarithm of their number.
    """

    address: Int64
    mask: Int64
    shift: Int64


class Times(NamedTuple):
    """The step of now, or 0 if look-ups leave no trace, and the oldest step that counts."""

    now: int
    oldest: int


@jit
def _home(key: Integer, shift: Integer) -> Integer:
    """Return the bucket in which the search for a key begins (Fibonacci hashing)."""
    bits = np.uint64(key)
    return np.int64(((bits ^ (bits >> np.uint64(32))) * GOLDEN) >> np.uint64(shift))


@jit
def find(
    tables: tuple[Int64, Int64, Int64],
    keys: Int64,
    starts: Int64,
    stops: Int64,
    times: tuple[int, int],
    rows: Int64,
    missing: Int64,
) -> None:
    """Write the row of each of ``keys[starts[t]:stops[t]]`` in table t to ``rows``, -1 for none.

    ``missing`` (tables,) becomes the number of those without a row.
    """
    count = starts.size
    longest = 0
    for t in range(count):
        longest = max(longest, stops[t] - starts[t])
    chunks = max(1, (longest + _CHUNK - 1) // _CHUNK)
    parts = np.zeros(count * chunks, np.int64)
    operands = (Tables(*tables), keys, starts, stops, Times(*times), rows, chunks, parts)
    run_tasks(_find_chunk, count * chunks, operands, ALL_THREADS)
    for t in range(count):
        missing[t] = parts[t * chunks : (t + 1) * chunks].sum()


@task_jit
def _find_chunk(
    task: int,
    tables: Tables,
    keys: Int64,
    starts: Int64,
    stops: Int64,
    times: Times,
    rows: Int64,
    chunks: int,
    parts: Int64,
) -> None:
    t = task // chunks
    first = starts[t] + task % chunks * _CHUNK
    last = min(stops[t], first + _CHUNK)
    address, mask, shift = tables.address[t], tables.mask[t], tables.shift[t]
    missing = 0
    for i in range(first, min(last, first + _AHEAD)):
        unsafe.prefetch(address + _LINE * _home(keys[i], shift))
    for i in range(first, last):
        if i + _AHEAD < last:
            unsafe.prefetch(address + _LINE * _home(keys[i + _AHEAD], shift))
        if i + _SOON < last:  # a tenth of the keys is in the bucket after a full one
            _prefetch_next(address, mask, _home(keys[i + _SOON], shift))
        row = _find_row(address, mask, keys[i], _home(keys[i], shift), times)
        rows[i] = row
        missing += row < 0
    parts[task] = missing


@jit
def _prefetch_next(address: Integer, mask: Integer, at: Integer) -> None:
    """Prefetch the bucket after one that is full, else the bucket itself, which costs nothing."""
    is_full = unsafe.load_int64(address + _LINE * (at + 1) - 8) != 0
    unsafe.prefetch(address + _LINE * ((at + 1) & mask if is_full else at))


@jit
def _find_row(address: Integer, mask: Integer, key: Integer, at: Integer, times: Times) -> Integer:
    """Return the row of a key and note that it was seen; -1 if it has none, or had it too long."""
    while True:
        line, slot, last = address + _LINE * at, np.int64(-1), np.int64(0)
        for i in range(BUCKET):
            last = unsafe.load_int64(line + SLOT_BYTES * i + 8)
            is_it = (unsafe.load_int64(line + SLOT_BYTES * i) == key) & (last != 0)
            slot = line + SLOT_BYTES * i if is_it else slot
        if slot >= 0:
            word = unsafe.load_int64(slot + 8)
            low, seen = word & _LOW, word >> 32
            if low & WAITING or seen < times.oldest:
                return -1
            if times.now > seen:
                unsafe.store_int64(slot + 8, (times.now << 32) | low)
            return low - 1
        if last == 0:
            return -1
        at = (at + 1) & mask


@jit
def insert(
    slots: Int64,
    keys: Int64,
    rows: Int64,
    first: Integer,
    times: tuple[int, int],
    rules: tuple[int, int, int],
    counts: Int64,
    free: Int64,
    new: tuple[Int64, Int64, Int64],
    done: Int64,
) -> int:
    """Count a sighting of each key from ``first`` on that has no row, and give rows, in order.

    ``rules`` are the rows of the table, the sightings that a key needs, and the occupied slots from
    which the table must grow. A key last seen before the oldest step that counts is new again.
    ``free`` are rows given back before. ``new`` are arrays for rows that start, their keys, and
    rows given back; ``done`` has how many. Returns where it must grow, or the number of keys.
    """
    (now, oldest), (capacity, after, most) = times, rules
    mask, shift = _mask_and_shift(slots)
    for i in range(first, keys.size):
        if rows[i] >= 0:
            continue
        key = keys[i]
        at = _slot_of(slots, key, mask, shift)
        word = slots[2 * at + 1]
        low, seen = word & _LOW, word >> 32
        if word == 0:
            if counts[ENTRIES] >= most:
                return i
            low, row = WAITING, -1
        elif low & WAITING:
            counts[WITHOUT_ROW] -= 1
            low, row = low if seen >= oldest else WAITING, -1
        elif seen >= oldest:  # it got its row earlier in this batch
            rows[i] = low - 1
            continue
        else:
            low, row = WAITING, low - 1
            if after > 1:
                new[2][done[1]] = row
                done[1] += 1
                row = -1
        sightings = min(low - WAITING + 1, after)
        if sightings >= after and row < 0:
            row = _take_row(counts, free, capacity)
        if row >= 0:
            low = row + 1
            new[0][done[0]], new[1][done[0]] = row, key
            done[0] += 1
        elif after == 1:  # the table is full: nothing is to be remembered of the key
            continue
        else:
            low = WAITING + min(sightings, after - 1)
            counts[WITHOUT_ROW] += 1
        counts[ENTRIES] += word == 0
        slots[2 * at], slots[2 * at + 1] = key, (now << 32) | low
        rows[i] = row
    return keys.size


@jit
def _take_row(counts: Int64, free: Int64, capacity: Integer) -> Integer:
    """Return the next free row, or -1."""
    if counts[NEXT_FREE] < counts[FREE]:
        counts[NEXT_FREE] += 1
        return free[counts[NEXT_FREE] - 1]
    if counts[USED] < capacity:
        counts[USED] += 1
        return counts[USED] - 1
    return -1


@jit
def _mask_and_shift(slots: Int64) -> tuple[int, int]:
    """Return the number of buckets - 1, and 64 less its logarithm."""
    count, bits = slots.size // (2 * BUCKET), 0
    while (1 << bits) < count:
        bits += 1
    return count - 1, 64 - bits


@jit
def _slot_of(slots: Int64, key: Integer, mask: Integer, shift: Integer) -> Integer:
    """Return the slot of a key, or the free one where it belongs."""
    at = _home(key, shift)
    while True:
        for slot in range(BUCKET * at, BUCKET * (at + 1)):
            if slots[2 * slot + 1] == 0 or slots[2 * slot] == key:
                return slot
        at = (at + 1) & mask


@jit
def copy_slots(
    old: Int64, oldest: Integer, keeps_waiting: bool, slots: Int64, counts: Int64, gone: Int64
) -> int:
    """Fill empty ``slots`` from ``old`` ones, without keys last seen before ``oldest``.

    Without ``keeps_waiting``, keys that have no row are left out, too. Writes the rows of keys
    that are left out to ``gone``, and returns their number.
    """
    mask, shift = _mask_and_shift(slots)
    counts[ENTRIES] = counts[WITHOUT_ROW] = 0
    left = 0
    for at in range(old.size // 2):
        word = old[2 * at + 1]
        if word == 0:
            continue
        low = word & _LOW
        if word >> 32 < oldest or (low & WAITING and not keeps_waiting):
            if not low & WAITING:
                gone[left] = low - 1
                left += 1
            continue
        to = _slot_of(slots, old[2 * at], mask, shift)
        slots[2 * to], slots[2 * to + 1] = old[2 * at], word
        counts[ENTRIES] += 1
        counts[WITHOUT_ROW] += low & WAITING != 0
    return left


@jit
def read_slots(
    slots: Int64, keys: Int64, seen: Int64, waiting: Int64, sightings: Int64, waiting_seen: Int64
) -> None:
    """Write the key of each row and the step it was last seen, and all keys without a row."""
    w = 0
    for at in range(slots.size // 2):
        word = slots[2 * at + 1]
        if word == 0:
            continue
        low = word & _LOW
        if low & WAITING:
            waiting[w], sightings[w] = slots[2 * at], low - WAITING
            waiting_seen[w] = word >> 32
            w += 1
        else:
            keys[low - 1], seen[low - 1] = slots[2 * at], word >> 32


@jit
def write_slots(slots: Int64, keys: Int64, words: Int64, counts: Int64) -> bool:
    """Fill empty ``slots`` with keys and their words; return whether the keys are all different."""
    mask, shift = _mask_and_shift(slots)
    for i in range(keys.size):
        at = _slot_of(slots, keys[i], mask, shift)
        if slots[2 * at + 1] != 0:
            return False
        slots[2 * at], slots[2 * at + 1] = keys[i], words[i]
        counts[ENTRIES] += 1
        counts[WITHOUT_ROW] += words[i] & WAITING != 0
    return True
