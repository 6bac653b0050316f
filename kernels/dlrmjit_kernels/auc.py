"""Exact ranking metrics of very many scores: by radix, with ties, in bounded extra memory.

The bits of a float, mapped to an integer, sort as the float does. The high 16 bits choose a
bucket. Rows are partitioned into buckets as (low 16 bits, label), and within a bucket the 65,536
possible low bits are counted, so that no rows are compared. If the rows do not fit into
``memory``, ranges of buckets are processed one after another, each in a pass over all scores.
Sums are of integers and in the order of buckets, so they do not depend on threads or memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.operands import BOOL, FLOAT32, check_array
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks

_BUCKETS = 1 << 16
_LOWS = 1 << 16
_BLOCKS = 16  # of rows: tasks of a pass over all rows
_MOST_TASKS = 64  # of a pass over buckets; each has counts of 1 MiB
MEMORY = 512 << 20
"""Default of the bytes of partitioned rows in memory at a time."""

Integer = Any
U32 = NDArray[np.uint32]


def ranking_metrics(
    scores: NDArray[np.float32], positive: NDArray[np.bool_], memory: int = MEMORY
) -> tuple[float, float]:
    """Return area under the ROC curve and average precision of float32 ``scores`` (N,).

    No score may be NaN. ``positive`` (N,) is the labels; both must occur. AUC is the Mann-Whitney
    statistic, where a tie counts half, exact up to its last rounding; average precision sums
    precision over the steps of recall, highest distinct score first.
    """
    positive = check_array("positive", positive, BOOL, 1)
    positives = int(np.count_nonzero(positive))
    if not 0 < positives < len(positive):
        raise ShapeError(f"both labels must occur, but {positives} of {len(positive)} are positive")
    twice_wins, precision = ranking_sums(scores, positive, memory=memory)
    return twice_wins / (2 * positives * (len(scores) - positives)), precision / positives


def ranking_sums(
    scores: NDArray[np.float32],
    positive: NDArray[np.bool_],
    higher: tuple[int, int] = (0, 0),
    memory: int = MEMORY,
) -> tuple[int, float]:
    """Return what these rows add to both metrics, before division by numbers of rows.

    ``higher`` is the numbers of negatives and positives, in other shares of the rows, that score
    higher than all of these. The sums are twice the wins of positives over negatives, where a tie
    counts half, and the precision at each positive. Extra memory is ``memory`` and some MB.
    """
    scores = check_array("scores", scores, FLOAT32, 1)
    positive = check_array("positive", positive, BOOL, scores.shape)
    counts = np.zeros((_BLOCKS, _BUCKETS, 2), np.int64)
    _count_buckets(scores, positive, counts)
    sizes = counts.sum(axis=0)
    above = sizes[::-1].cumsum(axis=0)[::-1] - sizes  # rows of higher buckets, by label
    above += np.array(higher, np.int64)
    twice_wins = np.zeros(_BUCKETS, np.uint64)
    precision = np.zeros(_BUCKETS, np.float64)
    for first, last in _passes(sizes.sum(axis=1), max(memory // 4, 1)):
        _one_pass(scores, positive, counts, sizes, above, first, last, twice_wins, precision)
    return int(twice_wins.sum(dtype=object)), float(precision.sum())


def _passes(sizes: NDArray[np.int64], capacity: int) -> list[tuple[int, int]]:
    """Return ranges of buckets with at most ``capacity`` rows, or of a single bucket."""
    passes, first, rows = [], 0, 0
    for bucket in np.flatnonzero(sizes).tolist():
        if rows and rows + sizes[bucket] > capacity:
            passes.append((first, bucket))
            first, rows = bucket, 0
        rows += int(sizes[bucket])
    return [*passes, (first, _BUCKETS)]


def _one_pass(
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
    if len(used) == 1:  # may exceed the memory, and needs no partition
        bucket = int(used[0])
        lows = np.zeros((_BLOCKS, _LOWS, 2), np.int64)
        _count_lows(scores, positive, bucket, lows)
        _finish_bucket(lows.sum(axis=0), bucket, above, twice_wins, precision)
        return
    per_bucket = sizes[first:last].sum(axis=1)
    starts = np.concatenate([[0], np.cumsum(per_bucket)])
    cursors = counts[:, first:last].sum(axis=2).cumsum(axis=0)
    cursors += starts[:-1] - counts[:, first:last].sum(axis=2)
    rows = np.empty(int(starts[-1]), np.uint32)
    _partition(scores, positive, first, last, cursors, rows)
    _count_and_finish(rows, used, starts, first, above, twice_wins, precision)


@jit
def _sortable(bits: Integer) -> Integer:
    """Map the bits of a float to an integer that sorts as the float does; both zeros are equal."""
    if bits == np.uint32(0x80000000):
        bits = np.uint32(0)
    if bits & np.uint32(0x80000000):
        return ~bits
    return bits | np.uint32(0x80000000)


@jit
def _rows_of_block(scores: NDArray[np.float32], block: int) -> Any:
    """Return the first row of a block and the one after its last."""
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
    bits, sizes = scores.view(np.uint32), counts[block]
    for i in range(*_rows_of_block(scores, block)):
        sizes[_sortable(bits[i]) >> np.uint32(16), np.int64(positive[i])] += 1


@jit
def _partition(
    scores: NDArray[np.float32],
    positive: NDArray[np.bool_],
    first: Integer,
    last: Integer,
    cursors: NDArray[np.int64],
    rows: U32,
) -> None:
    """Write (low bits, label) of the rows of buckets ``first`` to ``last``, bucket by bucket."""
    run_tasks(
        _partition_block, _BLOCKS, (scores, positive, first, last, cursors, rows), ALL_THREADS
    )


@task_jit
def _partition_block(
    block: int,
    scores: NDArray[np.float32],
    positive: NDArray[np.bool_],
    first: Integer,
    last: Integer,
    cursors: NDArray[np.int64],
    rows: U32,
) -> None:
    bits, cursor = scores.view(np.uint32), cursors[block]
    for i in range(*_rows_of_block(scores, block)):
        key = _sortable(bits[i])
        bucket = np.int64(key >> np.uint32(16))
        if first <= bucket < last:
            at = cursor[bucket - first]
            cursor[bucket - first] = at + 1
            low = (key & np.uint32(0xFFFF)) << np.uint32(1)
            rows[at] = low | np.uint32(positive[i])


@jit
def _count_lows(
    scores: NDArray[np.float32],
    positive: NDArray[np.bool_],
    bucket: Integer,
    lows: NDArray[np.int64],
) -> None:
    """Count the low bits of one bucket's rows, by label."""
    run_tasks(_count_lows_of_block, _BLOCKS, (scores, positive, bucket, lows), ALL_THREADS)


@task_jit
def _count_lows_of_block(
    block: int,
    scores: NDArray[np.float32],
    positive: NDArray[np.bool_],
    bucket: Integer,
    lows: NDArray[np.int64],
) -> None:
    bits, count = scores.view(np.uint32), lows[block]
    for i in range(*_rows_of_block(scores, block)):
        key = _sortable(bits[i])
        if np.int64(key >> np.uint32(16)) == bucket:
            count[np.int64(key & np.uint32(0xFFFF)), np.int64(positive[i])] += 1


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
    """Count the low bits of each bucket's rows, and add up what they contribute."""
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
    """Process one of ``tasks`` runs of buckets."""
    lows = np.zeros((_LOWS, 2), np.int64)
    for u in range(used.size * task // tasks, used.size * (task + 1) // tasks):
        bucket = used[u]
        start, end = starts[bucket - first], starts[bucket - first + 1]
        if end - start < _LOWS // 32:
            # Sorting few rows is cheaper than a walk over all 65,536 counts.
            few = np.sort(rows[start:end])
            _finish_few(few, bucket, above, twice_wins, precision)
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
    """Add up wins and precision over the distinct scores of a bucket, highest first."""
    negatives, positives = above[bucket, 0], above[bucket, 1]
    wins, total = np.uint64(0), 0.0
    for low in range(_LOWS - 1, -1, -1):
        losers, winners = lows[low, 0], lows[low, 1]
        if losers + winners == 0:
            continue
        # Each negative loses to all positives above it, and half to those of the same score.
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
    """Do the same for a bucket of few rows, which are sorted."""
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
