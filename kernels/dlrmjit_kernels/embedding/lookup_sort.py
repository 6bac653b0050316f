"""Sorts a batch's lookups by the rows they touch, so that every row has one owner.

The low bits of a row choose its bucket, which spreads hot rows, whose numbers are often small
and adjacent, over many buckets. A counting sort over fixed chunks of bags keeps the order of
occurrence inside a bucket, so nothing depends on who does what when, or on how many buckets
there are.
Each lookup becomes an entry, a uint64 with its row in the high and its bag in the low 32 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import get_num_threads
from numpy.typing import NDArray

from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import run_tasks
from dlrmjit_kernels.runtime.tasks import take_task
from dlrmjit_kernels.runtime.workspace import Workspace

BUCKET_LOOKUPS = 8192
BUCKETS_PER_THREAD = 16  # at least, of all tables together
CHUNK_LOOKUPS = 8192
MAX_BUCKETS = 4096  # of one table: more streams than this thrash the scatter

FIRST_BUCKET, FIRST_CHUNK, FIRST_CELL, BITS = range(4)  # columns of a plan


_U = np.uint64


@dataclass(frozen=True)
class Buckets:
    """Entries sorted into buckets: bucket ``b`` is ``entries[begin[b]:begin[b + 1]]``.

    ``order`` is that in which threads should take them. ``plan`` (S + 1, 4) tells of every table
    its first bucket, chunk and histogram cell and the number of low bits that make a bucket;
    ``tables`` the table of every bucket.
    """

    entries: NDArray[np.uint64]
    scales: NDArray[np.float32]
    begin: NDArray[np.int64]
    order: NDArray[np.int32]
    tables: NDArray[np.int32]
    plan: NDArray[np.int64]
    count: int
    scaled: bool


def sort_lookups(
    lookups: Lookups,
    rows: NDArray[np.int64],
    workspace: Workspace,
    weights: NDArray[np.float32],
    mean: bool,
) -> Buckets | None:
    """Buckets of the lookups in tables of ``rows`` rows; None if one is outside its table.

    ``weights`` is empty, or one per lookup; with it or ``mean`` every entry has a scale.
    """
    S, size = lookups.tables, len(lookups.indices)
    plan = workspace.get("plan", 4 * (S + 1), np.int64)[: 4 * (S + 1)].reshape(S + 1, 4)
    _make_plan(lookups.offsets, rows, bucket_lookups(size, get_num_threads()), plan)
    buckets, chunks, cells = (int(plan[S, c]) for c in (FIRST_BUCKET, FIRST_CHUNK, FIRST_CELL))
    histogram = workspace.get("histogram", cells, np.int32)
    begin = workspace.get("begin", buckets + 1, np.int64)
    tables = workspace.get("tables", buckets, np.int32)
    order = workspace.get("order", buckets, np.int32)
    entries = workspace.get("entries", size, np.uint64)
    scaled = mean or len(weights) > 0
    scales = workspace.get("scales", size if scaled else 0, np.float32)
    counter = workspace.get("counter", 2, np.int64)
    work = (chunks, get_num_threads(), counter)
    indices, offsets = lookups.indices, lookups.offsets
    if _count(indices, offsets, rows, plan, histogram, *work):
        return None
    _place(offsets, plan, histogram, begin, tables)
    _largest_first(begin[: buckets + 1], order)
    pooling = (weights, mean, scaled)
    _scatter(indices, offsets, *pooling, plan, histogram, begin, entries, scales, *work)
    return Buckets(entries, scales, begin, order, tables, plan, buckets, scaled)


def bucket_lookups(lookups: int, threads: int) -> int:
    """Lookups a bucket should hold, of so many in all.

    Many, for then several follow each other that read one gradient; few enough to share out.
    """
    return max(256, min(BUCKET_LOOKUPS, lookups // (BUCKETS_PER_THREAD * threads)))


@jit
def _bucket_bits(lookups: int, rows: int, per_bucket: int) -> int:
    """Low bits of a row that choose its bucket: about one bucket ``per_bucket`` lookups."""
    bits = 0
    while (
        (per_bucket << bits) < lookups and (1 << (bits + 1)) <= rows and (1 << bits) < MAX_BUCKETS
    ):
        bits += 1
    return bits


@jit
def _bucket_of(row: int, bits: int, mask: int) -> int:
    """Bucket of a row: its low bits, stirred by the next ones.

    Low bits alone would give a bucket rows at multiples of a power of two, which all fall into
    the same few sets of every cache. Each value of the upper bits still adds at most one row.
    """
    return (row ^ (row >> bits)) & mask


@jit
def _make_plan(
    offsets: NDArray[np.int64], rows: NDArray[np.int64], per_bucket: int, plan: NDArray[np.int64]
) -> None:
    S, N = offsets.shape[0], offsets.shape[1] - 1
    plan[0] = 0
    for s in range(S):
        count = offsets[s, N] - offsets[s, 0]
        bits = _bucket_bits(count, rows[s], per_bucket)
        chunks = max(1, min(N, (count + CHUNK_LOOKUPS - 1) // CHUNK_LOOKUPS))
        plan[s, BITS] = bits
        plan[s + 1, FIRST_BUCKET] = plan[s, FIRST_BUCKET] + (1 << bits)
        plan[s + 1, FIRST_CHUNK] = plan[s, FIRST_CHUNK] + chunks
        plan[s + 1, FIRST_CELL] = plan[s, FIRST_CELL] + (chunks << bits)


@jit
def _chunk(plan: NDArray[np.int64], N: int, task: int) -> tuple[int, int, int, int]:
    """Table, first and last bag, and first histogram cell of a chunk."""
    s = 0
    while plan[s + 1, FIRST_CHUNK] <= task:
        s += 1
    chunk = task - plan[s, FIRST_CHUNK]
    chunks = plan[s + 1, FIRST_CHUNK] - plan[s, FIRST_CHUNK]
    cell = plan[s, FIRST_CELL] + (chunk << plan[s, BITS])
    return s, chunk * N // chunks, (chunk + 1) * N // chunks, cell


@jit
def _count(
    indices: NDArray[Any],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    plan: NDArray[np.int64],
    histogram: NDArray[np.int32],
    chunks: int,
    threads: int,
    counter: NDArray[np.int64],
) -> bool:
    """Histogram of every chunk; whether a lookup is outside its table."""
    counter[:2] = 0
    operands = (indices, offsets, rows, plan, histogram, chunks, counter)
    run_tasks(_count_chunks, threads, operands, False)
    return bool(counter[1] != 0)


@task_jit
def _count_chunks(
    thread: int,
    indices: NDArray[Any],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    plan: NDArray[np.int64],
    histogram: NDArray[np.int32],
    chunks: int,
    counter: NDArray[np.int64],
) -> None:
    """Take chunk after chunk; the second counter says whether a lookup was outside."""
    outside = 0
    while True:
        task = take_task(counter.ctypes.data)
        if task >= chunks:
            break
        s, first, last, cell = _chunk(plan, offsets.shape[1] - 1, task)
        outside |= _count_chunk(
            indices[offsets[s, first] : offsets[s, last]],
            rows[s],
            plan[s, BITS],
            histogram[cell : cell + (1 << plan[s, BITS])],
        )
    if outside:
        counter[1] = 1


@jit
def _count_chunk(indices: NDArray[Any], rows: int, bits: int, histogram: NDArray[np.int32]) -> int:
    histogram[:] = 0
    outside = 0
    bits, mask = _U(bits), _U(len(histogram) - 1)
    for i in range(_U(len(indices))):
        row = _U(indices[i])
        outside |= row >= _U(rows)
        histogram[_bucket_of(row, bits, mask)] += 1
    return outside


@jit
def _place(
    offsets: NDArray[np.int64],
    plan: NDArray[np.int64],
    histogram: NDArray[np.int32],
    begin: NDArray[np.int64],
    tables: NDArray[np.int32],
) -> None:
    """Turn counts into the position of every chunk's first entry of every bucket."""
    S = offsets.shape[0]
    position = 0
    for s in range(S):
        start = position
        for b in range(1 << plan[s, BITS]):
            bucket = plan[s, FIRST_BUCKET] + b
            begin[bucket] = position
            tables[bucket] = s
            cell = plan[s, FIRST_CELL] + b
            while cell < plan[s + 1, FIRST_CELL]:
                count = histogram[cell]
                histogram[cell] = position - start
                position += count
                cell += 1 << plan[s, BITS]
    begin[plan[S, FIRST_BUCKET]] = position


@jit
def _largest_first(begin: NDArray[np.int64], order: NDArray[np.int32]) -> None:
    """Order buckets so that no thread begins a large one, of a hot row, when others end."""
    count = len(begin) - 1
    large = 2 * begin[count] // max(1, count)
    at = 0
    for wanted in (True, False):
        for b in range(count):
            if (begin[b + 1] - begin[b] > large) == wanted:
                order[at] = b
                at += 1


@jit
def _scatter(
    indices: NDArray[Any],
    offsets: NDArray[np.int64],
    weights: NDArray[np.float32],
    mean: bool,
    scaled: bool,
    plan: NDArray[np.int64],
    histogram: NDArray[np.int32],
    begin: NDArray[np.int64],
    entries: NDArray[np.uint64],
    scales: NDArray[np.float32],
    chunks: int,
    threads: int,
    counter: NDArray[np.int64],
) -> None:
    """Write every lookup's entry, and scale, to its place."""
    counter[0] = 0
    pooling, places = (weights, mean, scaled), (plan, histogram, begin, entries, scales)
    operands = (indices, offsets, pooling, places, chunks, counter)
    run_tasks(_scatter_chunks, threads, operands, False)


@task_jit
def _scatter_chunks(
    thread: int,
    indices: NDArray[Any],
    offsets: NDArray[np.int64],
    pooling: Any,
    places: Any,
    chunks: int,
    counter: NDArray[np.int64],
) -> None:
    weights, mean, scaled = pooling
    plan, histogram, begin, entries, scales = places
    while True:
        task = take_task(counter.ctypes.data)
        if task >= chunks:
            break
        s, first, last, cell = _chunk(plan, offsets.shape[1] - 1, task)
        start = begin[plan[s, FIRST_BUCKET]]
        bits = plan[s, BITS]
        cursor = histogram[cell : cell + (1 << plan[s, BITS])]
        bags = offsets[s, first : last + 1]
        if scaled:
            _scatter_scales(indices, bags, bits, weights, mean, cursor.copy(), scales[start:])
        _scatter_chunk(indices, bags, bits, first, cursor, entries[start:])


@jit
def _scatter_chunk(
    indices: NDArray[Any],
    bags: NDArray[np.int64],
    bits: int,
    first: int,
    cursor: NDArray[np.int32],
    entries: NDArray[np.uint64],
) -> None:
    bits, mask = _U(bits), _U(len(cursor) - 1)
    for n in range(_U(len(bags) - 1)):
        for i in range(_U(bags[n]), _U(bags[n + _U(1)])):
            row = _U(indices[i])
            bucket = _bucket_of(row, bits, mask)
            place = cursor[bucket]
            cursor[bucket] = place + 1
            entries[_U(place)] = row << _U(32) | (_U(first) + n)


@jit
def _scatter_scales(
    indices: NDArray[Any],
    bags: NDArray[np.int64],
    bits: int,
    weights: NDArray[np.float32],
    mean: bool,
    cursor: NDArray[np.int32],
    scales: NDArray[np.float32],
) -> None:
    mask = len(cursor) - 1
    for n in range(len(bags) - 1):
        share = np.float32(1)
        if mean and bags[n + 1] > bags[n]:
            share /= np.float32(bags[n + 1] - bags[n])
        for i in range(bags[n], bags[n + 1]):
            bucket = _bucket_of(_U(indices[i]), _U(bits), _U(mask))
            scales[cursor[bucket]] = share * weights[i] if len(weights) else share
            cursor[bucket] += 1
