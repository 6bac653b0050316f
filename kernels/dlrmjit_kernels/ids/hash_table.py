"""Loops over open-addressing hash tables from 64-bit keys to rows.

A slot is two int64: a key and a word. The word is 0 where the slot is free; its high 32 bits are
the step in which the key was last seen, its low ones the key's row + 1, or for a key without a row
``WAITING`` plus how often it has been seen. Four slots are a bucket, one cache line
(:mod:`~dlrmjit_kernels.ids.bucket`). A bucket is filled from its first slot on, and a key that
finds its own full is in one of those after it; so a look-up reads one cache line as a rule.

Random cache lines cost little each while many are on their way, and a full latency if one is
awaited. So look-ups take rounds: all keys of a chunk look into their buckets, and the few that find
them full look into those after them in the next round. No branch of a round depends on what a key
finds.

A look-up changes nothing but steps, so threads may share it: all that meet a key write the same.
New keys are inserted by one thread per table in the order of the batch, so that rows depend on the
keys alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.ids.bucket import LINE, SLOTS, address_of_word, is_full, key_at, word_of
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.splitmix import GOLDEN

Int64 = NDArray[np.int64]
Integer = Any

SLOT_BYTES = LINE // SLOTS
WAITING = 1 << 31
"""Set in the word of a key that has no row yet."""
_LOW = (1 << 32) - 1
_AHEAD = 128  # look-ups between the prefetch of a bucket and its use
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
    last = max(first, min(stops[t], first + _CHUNK))
    table = tables.address[t], tables.mask[t], tables.shift[t]
    _find_words(table, keys[first:last], times, rows[first:last])
    parts[task] = _take_rows(rows[first:last], times.oldest)


@jit
def _find_words(
    table: tuple[Integer, Integer, Integer], keys: Int64, times: Times, words: Int64
) -> None:
    """Write the word of each key, 0 if it is not there, and note in the table that it was seen."""
    address, mask, shift = table
    end, count = address + LINE * (mask + 1), keys.size
    lines, places = np.empty(count, np.int64), np.empty(count, np.uint32)
    for i in range(count):
        lines[i], places[i] = address + LINE * _home(keys[i], shift), i
    while count > 0:
        for i in range(min(count, _AHEAD)):
            unsafe.prefetch(lines[i])
        left = 0
        for i in range(count):
            if i + _AHEAD < count:
                unsafe.prefetch(lines[i + _AHEAD])
            line, place = lines[i], places[i]
            word = word_of(line, keys[place])
            words[place] = word
            if times.now > 0:
                _note_sight(line, keys[place], word, times)
            lines[left], places[left] = address if line + LINE == end else line + LINE, place
            left += (word == 0) & is_full(line)
        count = left


@jit
def _note_sight(line: Integer, key: Integer, word: Integer, times: Times) -> None:
    """Note the step in the word of a key that has a row, unless it had it for too long."""
    seen = word >> 32
    if word != 0 and word & WAITING == 0 and times.oldest <= seen < times.now:
        unsafe.store_int64(address_of_word(line, key), (times.now << 32) | (word & _LOW))


@jit
def _take_rows(words: Int64, oldest: Integer) -> int:
    """Replace words by the rows in them, -1 for none or an old one; return how many have none."""
    missing = 0
    for i in range(words.size):
        word = words[i]
        is_gone = (word & WAITING != 0) | (word >> 32 < oldest)
        words[i] = -1 if is_gone else (word & _LOW) - 1
        missing += words[i] < 0
    return missing


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
        word = slots[at + SLOTS]
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
        slots[at], slots[at + SLOTS] = key, (now << 32) | low
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
    count, bits = slots.size // (2 * SLOTS), 0
    while (1 << bits) < count:
        bits += 1
    return count - 1, 64 - bits


@jit
def _slot_of(slots: Int64, key: Integer, mask: Integer, shift: Integer) -> Integer:
    """Return where a key is, or the free place where it belongs; its word is ``SLOTS`` after."""
    bucket = _home(key, shift)
    while True:
        for at in range(2 * SLOTS * bucket, 2 * SLOTS * bucket + SLOTS):
            if slots[at + SLOTS] == 0 or slots[at] == key:
                return at
        bucket = (bucket + 1) & mask


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
    for slot in range(old.size // 2):
        at = key_at(slot)
        word = old[at + SLOTS]
        if word == 0:
            continue
        low = word & _LOW
        if word >> 32 < oldest or (low & WAITING and not keeps_waiting):
            if not low & WAITING:
                gone[left] = low - 1
                left += 1
            continue
        to = _slot_of(slots, old[at], mask, shift)
        slots[to], slots[to + SLOTS] = old[at], word
        counts[ENTRIES] += 1
        counts[WITHOUT_ROW] += low & WAITING != 0
    return left


@jit
def read_slots(
    slots: Int64, keys: Int64, seen: Int64, waiting: Int64, sightings: Int64, waiting_seen: Int64
) -> None:
    """Write the key of each row and the step it was last seen, and all keys without a row."""
    w = 0
    for slot in range(slots.size // 2):
        at = key_at(slot)
        word = slots[at + SLOTS]
        if word == 0:
            continue
        low = word & _LOW
        if low & WAITING:
            waiting[w], sightings[w] = slots[at], low - WAITING
            waiting_seen[w] = word >> 32
            w += 1
        else:
            keys[low - 1], seen[low - 1] = slots[at], word >> 32


@jit
def write_slots(slots: Int64, keys: Int64, words: Int64, counts: Int64) -> bool:
    """Fill empty ``slots`` with keys and their words; return whether the keys are all different."""
    mask, shift = _mask_and_shift(slots)
    for i in range(keys.size):
        at = _slot_of(slots, keys[i], mask, shift)
        if slots[at + SLOTS] != 0:
            return False
        slots[at], slots[at + SLOTS] = keys[i], words[i]
        counts[ENTRIES] += 1
        counts[WITHOUT_ROW] += words[i] & WAITING != 0
    return True
