"""Sorts a batch's lookups by the rows they touch, so that a single thread updates each row.

The low bits of a row choose its bucket, which spreads hot rows, whose numbers are often small
and adjacent, over many buckets. A counting sort over fixed chunks of bags preserves the order of
occurrence inside a bucket, so nothing depends on which thread does what when, or on the number
of buckets.
Each lookup becomes an entry, a uint64 with its row in the high and its bag in the low 32 bits.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from dlrmjit_kernels.calls.calls import Frame
from dlrmjit_kernels.calls.entries import store_call
from dlrmjit_kernels.embedding.lookups import Bags, Lookups, any_outside
from dlrmjit_kernels.runtime.compile import jit, jit_for_sizes, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks, threads_set
from dlrmjit_kernels.runtime.unsafe import next_task
from dlrmjit_kernels.runtime.workspace import Workspace

BUCKET_LOOKUPS = 8192
BUCKETS_PER_THREAD = 16  # at least, of all tables together
CHUNK_LOOKUPS = 8192
MAX_BUCKETS = 4096  # of one table: more streams than this thrash the scatter
PARALLEL_MIN_LOOKUPS = 1024  # are sorted in less time than waking other threads takes

FIRST_BUCKET, FIRST_CHUNK, FIRST_CELL, BITS = range(4)  # columns of a plan

# Numba wraps negative indices at every access unless the index is unsigned, hence the casts of
# the hot loops.
_U = np.uint64


class Buckets(NamedTuple):
    """Entries sorted into buckets: bucket ``b`` is ``entries[begin[b]:begin[b + 1]]``.

    ``order`` is the order in which threads should take them, ``tables`` the table of every
    bucket. ``plan`` (S + 1, 4) holds every table's first bucket, first chunk, first histogram
    cell, and number of low bits that choose a bucket. ``scales`` has a factor per entry if
    ``scaled``, else anything.
    """

    entries: NDArray[np.uint64]
    scales: NDArray[np.float32]
    begin: NDArray[np.int64]
    order: NDArray[np.int32]
    tables: NDArray[np.int32]
    plan: NDArray[np.int64]
    scaled: bool


class SharedSort:
    """Sorts lookups once for several tables of the same rows, which are updated in succession.

    Its arrays are those of the last sort: one thread uses it at a time.
    """

    def __init__(self) -> None:
        self._workspace = Workspace()
        self._lookups: Lookups | None = None
        self._of: tuple[bytes, bool] | None = None
        self._buckets: Buckets | None = None

    def sort(self, lookups: Lookups, rows: NDArray[np.int64], mean: bool) -> Buckets | None:
        """Return what :func:`sort_lookups` does, again if these lookups were the last."""
        of = rows.tobytes(), mean
        if self._lookups is not lookups or self._of != of or self._buckets is None:
            self._lookups, self._of = lookups, of
            self._buckets = sort_lookups(lookups, rows, self._workspace, mean)
        return self._buckets


def buckets_of(
    lookups: Lookups, rows: NDArray[np.int64], workspace: Workspace, mean: bool
) -> Buckets | None:
    """Return what :func:`sort_lookups` does, from the lookups' shared sort if they have one."""
    if lookups.shared_sort is not None:
        return lookups.shared_sort.sort(lookups, rows, mean)
    return sort_lookups(lookups, rows, workspace, mean)


def sort_lookups(
    lookups: Lookups, rows: NDArray[np.int64], workspace: Workspace, mean: bool
) -> Buckets | None:
    """Return the lookups of tables of ``rows`` rows in buckets; None if one is outside its table.

    With weights or ``mean`` every entry has a scale.
    """
    scaled = mean or (len(lookups.indices) > 0 and lookups.weights is not None)
    of = "sort", lookups.tables, lookups.indices.dtype, scaled, mean
    bags = Bags(*lookups.bags())
    sort = workspace.cached(of, (), partial(_BoundSort, bags, rows, workspace, mean, scaled))
    return sort(bags, rows)


class _UnsortedError(Exception):
    """A lookup is outside its table, or there are more than the arrays of a sort are for."""


def _refuse() -> None:
    raise _UnsortedError


class _BoundSort:
    """Sorts lookups of one form into arrays of a workspace, which grow if they must."""

    def __init__(
        self,
        bags: Bags,
        rows: NDArray[np.int64],
        workspace: Workspace,
        mean: bool,
        scaled: bool,
    ) -> None:
        self._workspace, self._mean, self._scaled = workspace, mean, scaled
        self._outside, self._frame = np.zeros(1, np.bool_), Frame()
        self._bind(bags, rows)

    def __call__(self, bags: Bags, rows: NDArray[np.int64]) -> Buckets | None:
        """Return the buckets, which are the same object as long as the arrays are the same."""
        self._frame.replace_first((tuple(bags), rows))
        for _ in range(2):  # the second time with arrays for these lookups
            if self._can_sort():
                return self._into
            if self._outside[0]:
                return None
            self._bind(bags, rows)
        raise MemoryError("a sort of lookups could not allocate memory for its scratch")

    def _can_sort(self) -> bool:
        try:
            self._call()
        except _UnsortedError:
            return False
        return True

    def _bind(self, bags: Bags, rows: NDArray[np.int64]) -> None:
        get, tables, size = self._workspace.get, len(bags.offsets), len(bags.indices)
        plan = get("plan", 4 * (tables + 1), np.int64)[: 4 * (tables + 1)].reshape(tables + 1, 4)
        buckets, _, cells = _make_plan(bags.offsets, rows, size, plan)
        self._into = Buckets(
            get("entries", size, np.uint64),
            get("scales", size if self._scaled else 0, np.float32),
            get("begin", buckets + 1, np.int64)[: buckets + 1],
            get("order", buckets, np.int32)[:buckets],
            get("tables", buckets, np.int32)[:buckets],
            plan,
            self._scaled,
        )
        histogram, counter = get("histogram", cells, np.int32), get("counter", 2, np.int64)
        arrays = tuple(self._into), histogram, counter, self._outside
        self._call = self._frame.bind(
            _store_sort, (tuple(bags), rows), self._mean, *arrays, repair=_refuse
        )


@register_jitable  # type: ignore[untyped-decorator]
def bucket_lookups(lookups: int, threads: int) -> int:
    """Return how many lookups a bucket should have, given the number of all.

    Many, because entries in succession then read the same gradient; few enough to balance threads.
    """
    return max(256, min(BUCKET_LOOKUPS, lookups // (BUCKETS_PER_THREAD * threads)))


@jit
def _bucket_bits(lookups: int, rows: int, per_bucket: int) -> int:
    """Return how many low bits of a row choose its bucket: about ``per_bucket`` lookups each.

    Up to half more are no reason to halve the buckets, and one bucket is sorted already.
    """
    bits = 0
    while (
        3 * (per_bucket << bits) < 2 * lookups
        and (1 << (bits + 1)) <= rows
        and (1 << bits) < MAX_BUCKETS
    ):
        bits += 1
    return bits


@jit
def _bucket_of(row: int, bits: int, mask: int) -> int:
    """Return the bucket of a row: its low bits, XORed with the next ones.

    With the low bits alone, the rows of a bucket would be multiples of a power of two apart, and
    all map to the same few sets of every cache. The XOR permutes the buckets differently for each
    value of the bits above, so a bucket still has at most one row for each such value.
    """
    return (row ^ (row >> bits)) & mask


@jit_for_sizes
def _make_plan(
    offsets: NDArray[np.int64], rows: NDArray[np.int64], lookups: int, plan: NDArray[np.int64]
) -> tuple[int, int, int]:
    """Fill the plan; return the numbers of buckets, of chunks and of cells of histograms."""
    S, N = offsets.shape[0], offsets.shape[1] - 1
    per_bucket = bucket_lookups(lookups, threads_set())
    plan[0] = 0
    for s in range(S):
        count = offsets[s, N] - offsets[s, 0]
        bits = _bucket_bits(count, rows[s], per_bucket)
        chunks = max(1, min(N, ceil_div(count, CHUNK_LOOKUPS)))
        plan[s, BITS] = bits
        plan[s + 1, FIRST_BUCKET] = plan[s, FIRST_BUCKET] + (1 << bits)
        plan[s + 1, FIRST_CHUNK] = plan[s, FIRST_CHUNK] + chunks
        plan[s + 1, FIRST_CELL] = plan[s, FIRST_CELL] + (chunks << bits)
    return plan[S, FIRST_BUCKET], plan[S, FIRST_CHUNK], plan[S, FIRST_CELL]


@jit
def _chunk(plan: NDArray[np.int64], N: int, task: int) -> tuple[int, int, int, int]:
    """Return the table, the first and last bag, and the first histogram cell of a chunk."""
    s = 0
    while plan[s + 1, FIRST_CHUNK] <= task:
        s += 1
    chunk = task - plan[s, FIRST_CHUNK]
    chunks = plan[s + 1, FIRST_CHUNK] - plan[s, FIRST_CHUNK]
    cell = plan[s, FIRST_CELL] + (chunk << plan[s, BITS])
    return s, chunk * N // chunks, (chunk + 1) * N // chunks, cell


@jit
def _sort(
    lookups: tuple[tuple[Any, ...], NDArray[np.int64]],
    mean: bool,
    into: tuple[Any, ...],
    histogram: NDArray[np.int32],
    counter: NDArray[np.int64],
    outside: NDArray[np.bool_],
) -> None:
    """Plan and fill the buckets; fail if the arrays are too small, or a lookup is ``outside``.

    ``histogram`` has the counts of every chunk, then the cursors of the scatter.
    """
    named, rows, buckets = Bags(*lookups[0]), lookups[1], Buckets(*into)
    size = len(named.indices)
    outside[0] = False
    planned, chunks, cells = _make_plan(named.offsets, rows, size, buckets.plan)
    entries = min(len(buckets.entries), len(buckets.scales) if buckets.scaled else size)
    if planned != len(buckets.order) or size > entries or cells > len(histogram):
        raise ValueError("the arrays are of other lookups")
    workers = 1 if size < PARALLEL_MIN_LOOKUPS else threads_set()
    counter[:2] = 0
    run_tasks(
        _count_chunks, workers, (named, rows, buckets.plan, histogram, chunks, counter), ALL_THREADS
    )
    if counter[1] != 0:
        outside[0] = True
        raise ValueError("a lookup is outside its table")
    _find_positions(buckets.plan, histogram, buckets.begin, buckets.tables)
    _largest_first(buckets.begin, buckets.order)
    counter[0] = 0
    run_tasks(
        _scatter_chunks, workers, (named, mean, buckets, histogram, chunks, counter), ALL_THREADS
    )


@jit
def _store_sort(frame: int, operands: Any) -> int:
    address: int = store_call(_sort, frame, operands)
    return address


@task_jit
def _count_chunks(
    thread: int,
    bags: Bags,
    rows: NDArray[np.int64],
    plan: NDArray[np.int64],
    histogram: NDArray[np.int32],
    chunks: int,
    counter: NDArray[np.int64],
) -> None:
    """Take chunk after chunk; ``counter[1]`` notes that a lookup was outside its table."""
    outside, offsets = 0, bags.offsets
    while True:
        task = next_task(counter.ctypes.data)
        if task >= chunks:
            break
        s, first, last, cell = _chunk(plan, offsets.shape[1] - 1, task)
        outside |= _count_chunk(
            bags.indices[offsets[s, first] : offsets[s, last]],
            rows[s],
            plan[s, BITS],
            histogram[cell : cell + (1 << plan[s, BITS])],
        )
    if outside:
        counter[1] = 1


@jit
def _count_chunk(indices: NDArray[Any], rows: int, bits: int, histogram: NDArray[np.int32]) -> int:
    if bits == 0:  # a single bucket, of every table of a small batch, needs no counting
        histogram[0] = len(indices)
        return 1 if any_outside(indices, rows) else 0
    histogram[:] = 0
    outside = 0
    bits, mask = _U(bits), _U(len(histogram) - 1)
    for i in range(_U(len(indices))):
        row = _U(indices[i])  # a negative index becomes a huge one: one comparison finds both
        outside |= row >= _U(rows)
        # the mask holds the bucket in range, so even an index outside is counted safely
        histogram[_bucket_of(row, bits, mask)] += 1
    return outside


@jit
def _find_positions(
    plan: NDArray[np.int64],
    histogram: NDArray[np.int32],
    begin: NDArray[np.int64],
    tables: NDArray[np.int32],
) -> None:
    """Replace counts by the position of every chunk's first entry of every bucket.

    Positions count from the first entry of the table, so that they fit into 32 bits.
    """
    S = len(plan) - 1
    position = 0
    for s in range(S):
        start = position
        for b in range(1 << plan[s, BITS]):
            bucket = plan[s, FIRST_BUCKET] + b
            begin[bucket] = position
            tables[bucket] = s
            # Chunk after chunk within a bucket: this is what preserves the order of occurrence.
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
    large = 2 * begin[count] // max(1, count)  # entries: twice the average
    position = 0
    for wanted in (True, False):
        for b in range(count):
            if (begin[b + 1] - begin[b] > large) == wanted:
                order[position] = b
                position += 1


@task_jit
def _scatter_chunks(
    thread: int,
    bags: Bags,
    mean: bool,
    into: Buckets,
    histogram: NDArray[np.int32],
    chunks: int,
    counter: NDArray[np.int64],
) -> None:
    """Write every lookup's entry, and its scale if there are scales, to its position."""
    indices, plan = bags.indices, into.plan
    while True:
        task = next_task(counter.ctypes.data)
        if task >= chunks:
            break
        s, first, last, cell = _chunk(plan, bags.offsets.shape[1] - 1, task)
        start = into.begin[plan[s, FIRST_BUCKET]]
        bits = plan[s, BITS]
        cursor = histogram[cell : cell + (1 << bits)]
        ends = bags.offsets[s, first : last + 1]
        if into.scaled:  # in a separate pass, on a copy of the cursors that the entries advance
            scales = into.scales[start:]
            _scatter_scales(indices, ends, bits, bags.weights, mean, cursor.copy(), scales)
        _scatter_chunk(indices, ends, bits, first, cursor, into.entries[start:])


@jit
def _scatter_chunk(
    indices: NDArray[Any],
    ends: NDArray[np.int64],
    bits: int,
    first: int,
    cursor: NDArray[np.int32],
    entries: NDArray[np.uint64],
) -> None:
    if bits == 0:
        _append_chunk(indices, ends, first, entries[cursor[0] :])
        return
    bits, mask = _U(bits), _U(len(cursor) - 1)
    for n in range(_U(len(ends) - 1)):
        for i in range(_U(ends[n]), _U(ends[n + _U(1)])):
            row = _U(indices[i])
            bucket = _bucket_of(row, bits, mask)
            position = cursor[bucket]
            cursor[bucket] = position + 1
            entries[_U(position)] = row << _U(32) | (_U(first) + n)


@jit
def _append_chunk(
    indices: NDArray[Any], ends: NDArray[np.int64], first: int, entries: NDArray[np.uint64]
) -> None:
    """Write the entries of a single bucket in their order."""
    start = _U(ends[0])
    for n in range(_U(len(ends) - 1)):
        for i in range(_U(ends[n]), _U(ends[n + _U(1)])):
            entries[i - start] = _U(indices[i]) << _U(32) | (_U(first) + n)


@jit
def _scatter_scales(
    indices: NDArray[Any],
    ends: NDArray[np.int64],
    bits: int,
    weights: NDArray[np.float32],
    mean: bool,
    cursor: NDArray[np.int32],
    scales: NDArray[np.float32],
) -> None:
    mask = len(cursor) - 1
    for n in range(len(ends) - 1):
        share = np.float32(1)
        if mean and ends[n + 1] > ends[n]:
            share /= np.float32(ends[n + 1] - ends[n])
        for i in range(ends[n], ends[n + 1]):
            bucket = _bucket_of(_U(indices[i]), _U(bits), _U(mask))
            scales[cursor[bucket]] = share * weights[i] if len(weights) else share
            cursor[bucket] += 1
