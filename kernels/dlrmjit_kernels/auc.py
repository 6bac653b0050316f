"""Exact ranking metrics of very many scores: by radix, with ties, in bounded extra memory.

A float's bits, taken as a number, sort as the float does. The upper 16 bits choose a bucket;
rows are dealt into buckets, their lower 16 bits and label beside each other, and within a
bucket the 65,536 possible lower halves are counted, so that nothing is ever compared. When the
rows do not fit into ``memory``, ranges of buckets take their turns over the same scores. Sums
are of whole numbers and in the order of buckets: the values do not depend on threads or memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks

_BUCKETS = 1 << 16
_LOWS = 1 << 16
_BLOCKS = 16  # tasks of a pass over all rows
_MOST_TASKS = 64  # of a pass over buckets, each with counts of 1 MiB
MEMORY = 512 << 20
"""Bytes of rows held at one time, by default."""

Integer = Any
U32 = NDArray[np.uint32]


def ranking_metrics(
    scores: NDArray[np.float32], positive: NDArray[np.bool_], memory: int = MEMORY
) -> tuple[float, float]:
    """Area under the ROC curve and average precision of float32 ``scores`` (N,), none NaN.

    ``positive`` (N,) says which rows are; both kinds must occur. AUC is the Mann-Whitney
    statistic, a tie counting half, exact but for its last rounding; average precision sums
    precision over the steps of recall, highest distinct score first.
    """
    positives = int(np.count_nonzero(positive))
    twice_wins, precision = ranking_sums(scores, positive, memory=memory)
    return twice_wins / (2 * positives * (len(scores) - positives)), precision / positives


def ranking_sums(
    scores: NDArray[np.float32],
    positive: NDArray[np.bool_],
    higher: tuple[int, int] = (0, 0),
    memory: int = MEMORY,
) -> tuple[int, float]:
    """What these rows add to both metrics, before they are divided by numbers of rows.

    ``higher`` are the negatives and positives that score higher than all of these, and are
    elsewhere. The sums are twice the wins, over positives and negatives, a tie counting half, and
    the precision at each positive. Extra memory: at most ``memory``, and some MB.
    """
    counts = np.zeros((_BLOCKS, _BUCKETS, 2), np.int64)
    _count_buckets(scores, positive, counts)
    sizes = counts.sum(axis=0)
    above = sizes[::-1].cumsum(axis=0)[::-1] - sizes  # rows of higher buckets, by label
    above += np.array(higher, np.int64)
    twice_wins = np.zeros(_BUCKETS, np.uint64)
    precision = np.zeros(_BUCKETS, np.float64)
    for first, last in _rounds(sizes.sum(axis=1), max(memory // 4, 1)):
        _one_round(scores, positive, counts, sizes, above, first, last, twice_wins, precision)
    return int(twice_wins.sum(dtype=object)), float(precision.sum())


def _rounds(sizes: NDArray[np.int64], room: int) -> list[tuple[int, int]]:
    """Ranges of buckets of at most ``room`` rows, or of one bucket alone."""
    rounds, first, held = [], 0, 0
    for bucket in np.flatnonzero(sizes).tolist():
        if held and held + sizes[bucket] > room:
            rounds.append((first, bucket))
            first, held = bucket, 0
        held += int(sizes[bucket])
    return [*rounds, (first, _BUCKETS)]


def _one_round(
    scores: NDArray[np.float32],
    positive: NDArray[np.bool_],
    counts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    above: NDArray[np.int64],
    first: int,
    last: int,
    twice_wins: NDArray[np.uint64],
    precision: NDArray[np.float64],
) -> None:
    used = first + np.flatnonzero(sizes[first:last].sum(axis=1))
    if len(used) == 1:  # perhaps too large to hold, and no need to
        bucket = int(used[0])
        lows = np.zeros((_BLOCKS, _LOWS, 2), np.int64)
        _count_lows(scores, positive, bucket, lows)
        _finish_bucket(lows.sum(axis=0), bucket, above, twice_wins, precision)
        return
    per_bucket = sizes[first:last].sum(axis=1)
    starts = np.concatenate([[0], np.cumsum(per_bucket)])
    places = counts[:, first:last].sum(axis=2).cumsum(axis=0)
    places += starts[:-1] - counts[:, first:last].sum(axis=2)
    rows = np.empty(int(starts[-1]), np.uint32)
    _deal(scores, positive, first, last, places, rows)
    _count_and_finish(rows, used, starts, first, above, twice_wins, precision)


@jit
def _sortable(bits: Integer) -> Integer:
    """Bits of a float as a number that sorts as the float does; both zeros are one."""
    if bits == np.uint32(0x80000000):
        bits = np.uint32(0)
    if bits & np.uint32(0x80000000):
        return ~bits
    return bits | np.uint32(0x80000000)


@jit
def _own_rows(scores: NDArray[np.float32], block: int) -> Any:
    """First row and the one behind the last of a block."""
    return scores.size * block // _BLOCKS, scores.size * (block + 1) // _BLOCKS


@jit
def _count_buckets(
    scores: NDArray[np.float32], positive: NDArray[np.bool_], counts: NDArray[np.int64]
) -> None:
    run_tasks(_count_buckets_of_block, _BLOCKS, (scores, positive, counts), ALL_THREADS)


@task_jit
def _count_buckets_of_block(
    block: int,
    scores: NDArray[np.float32],
    positive: NDArray[np.bool_],
    counts: NDArray[np.int64],
) -> None:
    bits, own = scores.view(np.uint32), counts[block]
    for i in range(*_own_rows(scores, block)):
        own[_sortable(bits[i]) >> np.uint32(16), np.int64(positive[i])] += 1


@jit
def _deal(
    scores: NDArray[np.float32],
    positive: NDArray[np.bool_],
    first: Integer,
    last: Integer,
    places: NDArray[np.int64],
    rows: U32,
) -> None:
    """Write (lower half, label) of rows of buckets ``first`` to ``last``, bucket by bucket."""
    run_tasks(_deal_block, _BLOCKS, (scores, positive, first, last, places, rows), ALL_THREADS)


@task_jit
def _deal_block(
    block: int,
    scores: NDArray[np.float32],
    positive: NDArray[np.bool_],
    first: Integer,
    last: Integer,
    places: NDArray[np.int64],
    rows: U32,
) -> None:
    bits, own = scores.view(np.uint32), places[block]
    for i in range(*_own_rows(scores, block)):
        key = _sortable(bits[i])
        bucket = np.int64(key >> np.uint32(16))
        if first <= bucket < last:
            at = own[bucket - first]
            own[bucket - first] = at + 1
            low = (key & np.uint32(0xFFFF)) << np.uint32(1)
            rows[at] = low | np.uint32(positive[i])


@jit
def _count_lows(
    scores: NDArray[np.float32],
    positive: NDArray[np.bool_],
    bucket: Integer,
    lows: NDArray[np.int64],
) -> None:
    """Count the lower halves of one bucket's rows, by label."""
    run_tasks(_count_lows_of_block, _BLOCKS, (scores, positive, bucket, lows), ALL_THREADS)


@task_jit
def _count_lows_of_block(
    block: int,
    scores: NDArray[np.float32],
    positive: NDArray[np.bool_],
    bucket: Integer,
    lows: NDArray[np.int64],
) -> None:
    bits, own = scores.view(np.uint32), lows[block]
    for i in range(*_own_rows(scores, block)):
        key = _sortable(bits[i])
        if np.int64(key >> np.uint32(16)) == bucket:
            own[np.int64(key & np.uint32(0xFFFF)), np.int64(positive[i])] += 1


@jit
def _count_and_finish(
    rows: U32,
    used: NDArray[np.int64],
    starts: NDArray[np.int64],
    first: Integer,
    above: NDArray[np.int64],
    twice_wins: NDArray[np.uint64],
    precision: NDArray[np.float64],
) -> None:
    """Count the lower halves of each bucket's rows and add up what they contribute."""
    tasks = min(used.size, _MOST_TASKS)
    operands = (tasks, rows, used, starts, first, above, twice_wins, precision)
    run_tasks(_finish_some, tasks, operands, ALL_THREADS)


@task_jit
def _finish_some(
    task: int,
    tasks: int,
    rows: U32,
    used: NDArray[np.int64],
    starts: NDArray[np.int64],
    first: Integer,
    above: NDArray[np.int64],
    twice_wins: NDArray[np.uint64],
    precision: NDArray[np.float64],
) -> None:
    """One of ``tasks`` runs of buckets."""
    lows = np.zeros((_LOWS, 2), np.int64)
    for u in range(used.size * task // tasks, used.size * (task + 1) // tasks):
        bucket = used[u]
        start, end = starts[bucket - first], starts[bucket - first + 1]
        if end - start < _LOWS // 32:
            part = np.sort(rows[start:end])
            _finish_few(part, bucket, above, twice_wins, precision)
            continue
        for i in range(start, end):
            row = rows[i]
            lows[np.int64(row >> np.uint32(1)), np.int64(row & np.uint32(1))] += 1
        _finish_bucket(lows, bucket, above, twice_wins, precision)
        lows[:] = 0


@jit
def _finish_bucket(
    lows: NDArray[np.int64],
    bucket: Integer,
    above: NDArray[np.int64],
    twice_wins: NDArray[np.uint64],
    precision: NDArray[np.float64],
) -> None:
    """Walk the distinct scores of a bucket from the highest down."""
    negatives, positives = above[bucket, 0], above[bucket, 1]
    wins, total = np.uint64(0), 0.0
    for low in range(_LOWS - 1, -1, -1):
        losers, winners = lows[low, 0], lows[low, 1]
        if losers + winners == 0:
            continue
        # each negative loses to all positives above it, and half to those beside it
        wins += np.uint64(losers) * np.uint64(2 * positives + winners)
        positives += winners
        negatives += losers
        total += winners * (positives / (positives + negatives))
    twice_wins[bucket], precision[bucket] = wins, total


@jit
def _finish_few(
    rows: U32,
    bucket: Integer,
    above: NDArray[np.int64],
    twice_wins: NDArray[np.uint64],
    precision: NDArray[np.float64],
) -> None:
    """The same for a bucket of few rows, sorted."""
    negatives, positives = above[bucket, 0], above[bucket, 1]
    wins, total = np.uint64(0), 0.0
    at = rows.size
    while at > 0:
        low, losers, winners = rows[at - 1] >> np.uint32(1), 0, 0
        while at > 0 and rows[at - 1] >> np.uint32(1) == low:
            at -= 1
            winners += np.int64(rows[at] & np.uint32(1))
            losers += 1 - np.int64(rows[at] & np.uint32(1))
        wins += np.uint64(losers) * np.uint64(2 * positives + winners)
        positives += winners
        negatives += losers
        total += winners * (positives / (positives + negatives))
    twice_wins[bucket], precision[bucket] = wins, total
