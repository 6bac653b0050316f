"""Exact metrics of rankings within lists: ragged, with ties, one pass over all metrics.

Items of equal score are exchangeable. NDCG and the reciprocal rank are therefore the mean over all
orders of tied items; precision takes a tied group in one step; a tied pair is half a win. One sort
of a list by score and one by relevance, which counts inversions (Knight, 1966), serve all metrics,
so a list of n items takes O(n log n). A list is the work of one thread, and the order of its sums
depends on the list alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.operands import FLOAT32, FLOAT64, INT64, check_array, check_ndarray
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks

AFTER_NDCG = (
    "reciprocal_rank",
    "average_precision",
    "auc",
    "kendall_tau",
    "rank_accuracy",
    "whole_order",
)
"""Columns of :func:`list_metrics` that follow those of NDCG."""
_MOST_TASKS = 256
_RUN = 12  # items up to which insertion is the faster sort

Floats = NDArray[Any]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


def list_metrics(
    scores: Floats,
    relevance: Floats,
    offsets: I64,
    cutoffs: Sequence[int] = (),
    exponential: bool = False,
) -> F64:
    """Return the metrics of every list, float64 (lists, len(cutoffs) + 1 + len(AFTER_NDCG)).

    Parameters
    ----------
    scores : (N,) float32 or float64, none of them NaN
    relevance : (N,) of the same dtype, finite and not negative; an item above 0 is relevant
    offsets : (lists + 1,) int64 from 0 to N; list l has the rows ``offsets[l]:offsets[l + 1]``
    cutoffs : numbers k of NDCG@k, at least 1; NDCG of the whole list follows them
    exponential : gains are 2 ** relevance - 1 instead of relevance

    NDCG, reciprocal rank and average precision of a list without a relevant item are 0; AUC without
    both kinds of item, and the last three columns if all items are equally relevant, are NaN, as
    is everything of an empty list.

    Raises
    ------
    ShapeError
        For operands that do not belong together.
    """
    check_ndarray("scores", scores)
    dtype = FLOAT64 if scores.dtype == FLOAT64 else FLOAT32
    scores = check_array("scores", scores, dtype, 1)
    relevance = check_array("relevance", relevance, dtype, scores.shape)
    lengths = list_lengths(offsets, len(scores))
    if min(cutoffs, default=1) < 1:
        raise ShapeError(f"cutoffs of NDCG must be at least 1, not {min(cutoffs)}")
    longest = int(lengths.max(initial=0))
    discounts = 1 / np.log2(np.arange(2, longest + 2, dtype=np.float64))
    stops = np.array([*(min(k, longest) for k in cutoffs), longest], np.int64)
    values = np.full((len(lengths), len(stops) + len(AFTER_NDCG)), np.nan)
    parts = list_parts(offsets)
    _measure_lists(scores, relevance, offsets, parts, stops, exponential, discounts, values)
    return values


def list_ranks(scores: Floats, offsets: I64) -> I64:
    """Return the rank of each score within its list, int64 (N,), from 1 for the highest.

    ``scores`` (N,) float32 or float64 must not be NaN; of equal scores the first has the better
    rank. ``offsets`` is that of :func:`list_metrics`. Raises :class:`ShapeError`.
    """
    check_ndarray("scores", scores)
    dtype = FLOAT64 if scores.dtype == FLOAT64 else FLOAT32
    scores = check_array("scores", scores, dtype, 1)
    list_lengths(offsets, len(scores))
    ranks = np.empty(len(scores), np.int64)
    _rank_lists(scores, offsets, list_parts(offsets), ranks)
    return ranks


def list_lengths(offsets: I64, rows: int) -> I64:
    """Return the length of each list; raise ShapeError for offsets that do not divide the rows."""
    offsets = check_array("offsets", offsets, INT64, 1)
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != rows:
        found = f"from {offsets[0]} to {offsets[-1]}" if len(offsets) else "without an entry"
        raise ShapeError(f"offsets of lists must run from 0 to the {rows} rows, not {found}")
    wrong = np.flatnonzero(offsets[1:] < offsets[:-1])  # a difference might wrap around
    if wrong.size:
        first = int(wrong[0])
        raise ShapeError(
            f"offsets of lists must not decrease, but {offsets[first + 1]} follows {offsets[first]}"
        )
    return np.diff(offsets)


def list_parts(offsets: I64) -> I64:
    """Return the first list of each task, and the number of lists; tasks have like many rows."""
    lists = len(offsets) - 1
    rows = np.linspace(0, offsets[-1], min(lists, _MOST_TASKS) + 1)[1:-1]
    inner = np.searchsorted(offsets[:-1], rows.astype(np.int64))
    return np.concatenate([[0], inner, [lists]]).astype(np.int64)


@jit
def longest_list(offsets: I64, first: int, last: int) -> int:
    """Return the length of the longest of the lists from ``first`` to before ``last``."""
    longest = 0
    for i in range(first, last):
        longest = max(longest, offsets[i + 1] - offsets[i])
    return longest


@jit
def _rank_lists(scores: Floats, offsets: I64, parts: I64, ranks: I64) -> None:
    run_tasks(_rank_part, parts.size - 1, (scores, offsets, parts, ranks), ALL_THREADS)


@task_jit
def _rank_part(part: int, scores: Floats, offsets: I64, parts: I64, ranks: I64) -> None:
    longest = longest_list(offsets, parts[part], parts[part + 1])
    orders, spare = np.empty(longest, np.int64), np.empty(longest, np.int64)
    for i in range(parts[part], parts[part + 1]):
        start, stop = offsets[i], offsets[i + 1]
        order = orders[: stop - start]
        _sort_by_score(scores[start:stop], order, spare)
        for at in range(order.size):
            ranks[start + order[at]] = at + 1


@jit
def _measure_lists(
    scores: Floats,
    relevance: Floats,
    offsets: I64,
    parts: I64,
    stops: I64,
    exponential: bool,
    discounts: F64,
    values: F64,
) -> None:
    operands = (scores, relevance, offsets, parts, stops, exponential, discounts, values)
    run_tasks(_measure_part, parts.size - 1, operands, ALL_THREADS)


@task_jit
def _measure_part(
    part: int,
    scores: Floats,
    relevance: Floats,
    offsets: I64,
    parts: I64,
    stops: I64,
    exponential: bool,
    discounts: F64,
    values: F64,
) -> None:
    longest = longest_list(offsets, parts[part], parts[part + 1])
    orders, spare = np.empty(longest, np.int64), np.empty(longest, np.int64)
    gains = np.empty(longest, np.float64)
    for i in range(parts[part], parts[part + 1]):
        start, stop = offsets[i], offsets[i + 1]
        if stop == start:
            continue
        order, list_relevance = orders[: stop - start], relevance[start:stop]
        list_scores, out = scores[start:stop], values[i]
        _sort_by_score(list_scores, order, spare)
        ties = _walk_groups(list_scores, list_relevance, order, spare, exponential, gains, out)
        for j in range(stops.size):
            out[j] = _discounted(gains, discounts, min(stops[j], order.size))
        discordant = sort_descending(list_relevance, order, spare)
        _compare_pairs(list_relevance, order, discordant, ties[0], ties[1], out)
        for j in range(order.size):
            gains[j] = _gain(list_relevance[order[j]], exponential)
        for j in range(stops.size):
            ideal = _discounted(gains, discounts, min(stops[j], order.size))
            out[j] = out[j] / ideal if ideal > 0 else 0.0


@jit
def _gain(relevance: float, exponential: bool) -> Any:
    wide = np.float64(relevance)
    return 2.0**wide - 1.0 if exponential else wide


@jit
def _discounted(gains: F64, discounts: F64, stop: int) -> float:
    total = 0.0
    for i in range(stop):
        total += gains[i] * discounts[i]
    return total


@jit
def _walk_groups(
    scores: Floats,
    relevance: Floats,
    order: I64,
    spare: I64,
    exponential: bool,
    gains: F64,
    out: F64,
) -> Any:
    """Write mean gains by position, and the metrics of relevant items; order ties by relevance.

    Return the number of pairs with equal scores, and of those that are equally relevant too.
    """
    n = order.size
    relevant, twice_wins, precision, reciprocal = 0, 0, 0.0, 0.0
    tied_pairs, same_pairs = 0, 0
    start = 0
    while start < n:
        stop = start + 1
        while stop < n and scores[order[stop]] == scores[order[start]]:
            stop += 1
        group = order[start:stop]
        total, found = 0.0, 0
        for i in range(group.size):
            total += _gain(relevance[group[i]], exponential)
            found += relevance[group[i]] > 0
        gains[start:stop] = total / group.size
        if group.size > 1:
            tied_pairs += _pairs(group.size)
            sort_descending(relevance, group, spare)
            same_pairs += _equal_pairs(relevance, group)
        if found and not relevant:
            reciprocal = _expected_reciprocal(start, group.size, found)
        twice_wins += (group.size - found) * (2 * relevant + found)
        relevant += found
        precision += found * (relevant / stop)
        start = stop
    columns = out[out.size - 6 :]
    columns[0] = reciprocal
    columns[1] = precision / relevant if relevant else 0.0
    if 0 < relevant < n:
        columns[2] = twice_wins / (2.0 * relevant * (n - relevant))
    return tied_pairs, same_pairs


@jit
def _expected_reciprocal(before: int, size: int, relevant: int) -> float:
    """Return the mean of 1 / rank of the first relevant item over all orders of a tied group.

    ``before`` items, none of them relevant, precede the group, which has ``relevant`` of ``size``.
    """
    expected, left = 0.0, 1.0  # left: probability that all items so far are irrelevant
    for i in range(size - relevant + 1):
        here = left * relevant / (size - i)
        expected += here / (before + i + 1)
        left -= here
    return expected


@jit
def _compare_pairs(
    relevance: Floats, order: I64, discordant: int, tied_scores: int, same_pairs: int, out: F64
) -> None:
    """Write the metrics that compare pairs of items, given ``order`` by relevance."""
    pairs = _pairs(order.size)
    unequal = pairs - _equal_pairs(relevance, order)
    if unequal == 0:
        return
    half_right = tied_scores - same_pairs  # of the unequal pairs, those with equal scores
    concordant = unequal - half_right - discordant
    columns = out[out.size - 3 :]
    columns[0] = 0.0
    if tied_scores < pairs:
        columns[0] = (concordant - discordant) / np.sqrt(unequal) / np.sqrt(pairs - tied_scores)
    columns[1] = (concordant + 0.5 * half_right) / unequal
    columns[2] = 1.0 if concordant == unequal else 0.0


@jit
def _pairs(n: int) -> int:
    return n * (n - 1) // 2


@jit
def _equal_pairs(values: Floats, order: I64) -> int:
    """Return the number of pairs of equal values, which ``order`` sorts."""
    pairs, length = 0, 1
    for i in range(1, order.size):
        length = length + 1 if values[order[i]] == values[order[i - 1]] else 1
        pairs += length - 1
    return pairs


@jit
def _sort_by_score(scores: Floats, order: I64, spare: I64) -> None:
    for i in range(order.size):
        order[i] = i
    sort_descending(scores, order, spare)


@jit
def sort_descending(values: Floats, order: I64, spare: I64) -> int:
    """Sort positions in ``values`` by falling value, stably; return the number of inversions.

    An inversion is a pair of which the later has the greater value.
    """
    n, inversions = order.size, 0
    for first in range(0, n, _RUN):
        for i in range(first + 1, min(first + _RUN, n)):
            moved, j = order[i], i
            while j > first and values[order[j - 1]] < values[moved]:
                order[j] = order[j - 1]
                j -= 1
            order[j] = moved
            inversions += i - j
    width = _RUN
    while width < n:
        for first in range(0, n - width, 2 * width):
            last = min(first + 2 * width, n)
            inversions += _merge(values, order[first:last], width, spare)
        width *= 2
    return inversions


@jit
def _merge(values: Floats, order: I64, middle: int, spare: I64) -> int:
    """Merge the sorted parts of ``order`` before and after ``middle``; return inversions."""
    spare[:middle] = order[:middle]
    left, right, inversions = 0, middle, 0
    for at in range(order.size):
        if left == middle:
            break
        if right < order.size and values[spare[left]] < values[order[right]]:
            order[at] = order[right]
            right += 1
            inversions += middle - left
        else:
            order[at] = spare[left]
            left += 1
    return inversions
