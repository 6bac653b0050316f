"""Exact metrics of scores that are distributed over ranks; no rank ever has all of them.

Scores are partitioned by value, in blocks of a million: each rank receives one range of scores,
with equal scores on the same rank. The sums of a range then follow from its scores and from the
numbers of positives and negatives in higher ranges. In addition to its scores and targets a rank
needs five bytes per score of its range, and the memory of the radix kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.source import Source
from dlrmjit.metrics import (
    Metrics,
    RankingMetrics,
    Totals,
    blocks,
    metrics_from,
    ranking_sums,
    totals,
)
from dlrmjit.parallel.comm import Comm, exchange_json
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.routing import ShardedSource
from dlrmjit.ranking.metrics import metrics_of_sums
from dlrmjit.ranking.tested import TestedRows

_SORTED_SAMPLE = 1 << 14  # scores that each rank sorts to choose the bounds of the ranges
_CANDIDATES = 64  # scores of them that each rank proposes as bounds


def evaluate(
    model: ShardedModel,
    source: Source | ShardedSource,
    *,
    threshold: float = 0.0,
    on_scores: Callable[[Any, Any], None] | None = None,
) -> Metrics:
    """Return the metrics of ``model`` on all of ``source``, the same on every rank.

    ``on_scores`` is called with this rank's probabilities of every batch, and their targets.

    The result is that of :func:`dlrmjit.training.fit.evaluate` in one process.
    """
    if not isinstance(source, ShardedSource):
        source = ShardedSource(source, model.router)
    tested = TestedRows()
    for batch in source.batches():
        lists = getattr(batch.local, "lists", None)
        tested.add(model, batch, batch.labels, lists, threshold)
        if on_scores is not None:
            on_scores(tested.scores[-1], batch.labels)
    metrics = metrics_over_ranks(*tested.rows(), model.comm)
    if tested.lists is None:
        return metrics
    sums = exchange_json(model.comm, tested.lists.sums(), name="metrics")
    return RankingMetrics.of(metrics, metrics_of_sums(sums).named())


def metrics_over_ranks(scores: NDArray[Any], targets: NDArray[Any], comm: Comm) -> Metrics:
    """Return :func:`~dlrmjit.metrics.compute_metrics` of the scores and targets of all ranks."""
    sums = np.array(astuple(totals(scores, targets)), np.float64)
    comm.allreduce(sums, name="metrics").wait()
    all_totals = Totals(*sums.tolist())
    if all_totals.undefined:
        return metrics_from(all_totals, 0, 0.0)
    scores_here, positive_here = _partition_by_score(scores, targets == 1, comm)
    ranking = ranking_sums(scores_here, positive_here, _counts_above(positive_here, comm))
    rankings = exchange_json(comm, ranking, name="metrics")
    twice_wins = sum(wins for wins, _ in rankings)
    return metrics_from(all_totals, twice_wins, sum(precision for _, precision in rankings))


def _partition_by_score(
    scores: NDArray[Any], positive: NDArray[np.bool_], comm: Comm
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Exchange scores in blocks; return this rank's range of them, and which are positive."""
    bounds, counts = _bounds(scores, comm), np.zeros(comm.size, np.int64)
    parts = list(blocks(scores.size))
    for part in parts:
        counts += np.bincount(_owner(scores[part], bounds), minlength=comm.size)
    size = _exchanged(counts, comm).sum()
    scores_here, positive_here = np.empty(size, scores.dtype), np.empty(size, np.bool_)
    # All ranks take part in as many exchanges as the rank with the most blocks has.
    rounds, filled = max(exchange_json(comm, len(parts), name="metrics")), 0
    for part in (*parts, *[slice(0, 0)] * (rounds - len(parts))):
        owner = _owner(scores[part], bounds)
        order = np.argsort(owner, kind="stable")
        sent = np.bincount(owner, minlength=comm.size)
        received = _exchanged(sent, comm)
        end = filled + int(received.sum())
        for values, into in ((scores[part], scores_here), (positive[part], positive_here)):
            comm.alltoallv(
                values[order], sent.tolist(), into[filled:end], received.tolist(), name="metrics"
            ).wait()
        filled = end
    return scores_here, positive_here


def _owner(scores: NDArray[Any], bounds: NDArray[Any]) -> NDArray[np.int64]:
    """Return the rank whose range each score is in."""
    return np.searchsorted(bounds, scores, side="right")


def _exchanged(counts: NDArray[np.int64], comm: Comm) -> NDArray[np.int64]:
    """Return what this rank receives from each rank, given what it sends to each."""
    expected, ones = np.empty_like(counts), [1] * comm.size
    comm.alltoallv(counts, ones, expected, ones, name="metrics").wait()
    return expected


def _bounds(scores: NDArray[Any], comm: Comm) -> NDArray[Any]:
    """Return ascending bounds of ranges with about equally many scores of all ranks."""
    candidates = np.ones(_CANDIDATES, scores.dtype)
    if scores.size:
        sample = np.linspace(0, scores.size - 1, _SORTED_SAMPLE).astype(np.int64)
        candidates = np.sort(scores[sample])[:: _SORTED_SAMPLE // _CANDIDATES].copy()
    gathered = np.empty(_CANDIDATES * comm.size, scores.dtype)
    comm.allgatherv(candidates, gathered, [_CANDIDATES] * comm.size, name="metrics").wait()
    bounds: NDArray[Any] = np.sort(gathered)[_CANDIDATES::_CANDIDATES]
    return bounds


def _counts_above(positive: NDArray[np.bool_], comm: Comm) -> tuple[int, int]:
    """Return the numbers of negatives and of positives in the ranges above this rank's."""
    positives = int(np.count_nonzero(positive))
    counts = exchange_json(comm, [positive.size - positives, positives], name="metrics")
    above = counts[comm.rank + 1 :]
    return sum(negatives for negatives, _ in above), sum(positives for _, positives in above)
