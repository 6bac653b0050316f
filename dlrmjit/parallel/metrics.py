"""Exact metrics of scores that are spread over ranks; no rank ever has all of them.

Scores are dealt out by value: each rank gets one range of them, equal scores together, a million
at a time. What a range adds to the metrics then follows from it and from how many positives and
negatives lie above it. Beside its scores and targets a rank needs five bytes for each score of
its range, and what the radix kernel takes.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.source import Source
from dlrmjit.metrics import Metrics, Totals, blocks, metrics_from, ranking_sums, totals
from dlrmjit.parallel.comm import Comm, exchange_json
from dlrmjit.parallel.model import ShardedDLRM
from dlrmjit.parallel.routing import ShardedSource

_SORTED_SAMPLE = 1 << 14  # of its scores that each rank sorts
_CANDIDATES = 64  # and of those that it offers for the bounds of the ranges


def evaluate(
    model: ShardedDLRM, source: Source | ShardedSource, *, threshold: float = 0.0
) -> Metrics:
    """Metrics of ``model`` on all of ``source``; the same on every rank.

    As :func:`dlrmjit.training.fit.evaluate`.
    """
    if not isinstance(source, ShardedSource):
        source = ShardedSource(source, model.router)
    scores, targets = [np.empty(0, np.float32)], [np.empty(0, np.float32)]
    for batch in source.batches():
        scores.append(model.predict_proba(batch, threshold=threshold))
        targets.append(batch.labels)
    return metrics_over_ranks(np.concatenate(scores), np.concatenate(targets), model.comm)


def metrics_over_ranks(scores: NDArray[Any], targets: NDArray[Any], comm: Comm) -> Metrics:
    """Metrics of all ranks' scores and targets, as :func:`~dlrmjit.metrics.compute_metrics`."""
    own = np.array(astuple(totals(scores, targets)), np.float64)
    comm.allreduce(own, name="metrics").wait()
    found = Totals(*own.tolist())
    if found.undefined:
        return metrics_from(found, 0, 0.0)
    ours, positive = _partition_by_score(scores, targets == 1, comm)
    sums = ranking_sums(ours, positive, _counts_above(positive, comm))
    every = exchange_json(comm, sums, name="metrics")
    return metrics_from(found, sum(wins for wins, _ in every), sum(part for _, part in every))


def _partition_by_score(
    scores: NDArray[Any], positive: NDArray[np.bool_], comm: Comm
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """This rank's range of all scores, and which of them are positive; dealt out in blocks."""
    bounds, counts = _bounds(scores, comm), np.zeros(comm.size, np.int64)
    parts = list(blocks(scores.size))
    for at in parts:
        counts += np.bincount(_owner(scores[at], bounds), minlength=comm.size)
    expected = _exchanged(counts, comm)
    ours, is_positive = np.empty(expected.sum(), scores.dtype), np.empty(expected.sum(), np.bool_)
    rounds, filled = max(exchange_json(comm, len(parts), name="metrics")), 0
    for at in (*parts, *[slice(0, 0)] * (rounds - len(parts))):
        target = _owner(scores[at], bounds)
        order = np.argsort(target, kind="stable")
        sent = np.bincount(target, minlength=comm.size)
        received = _exchanged(sent, comm)
        end = filled + int(received.sum())
        for values, into in ((scores[at], ours), (positive[at], is_positive)):
            comm.alltoallv(
                values[order], sent.tolist(), into[filled:end], received.tolist(), name="metrics"
            ).wait()
        filled = end
    return ours, is_positive


def _owner(scores: NDArray[Any], bounds: NDArray[Any]) -> NDArray[np.int64]:
    """The rank whose range each score is in."""
    return np.searchsorted(bounds, scores, side="right")


def _exchanged(counts: NDArray[np.int64], comm: Comm) -> NDArray[np.int64]:
    """From what this rank sends each, what it receives from each."""
    expected, ones = np.empty_like(counts), [1] * comm.size
    comm.alltoallv(counts, ones, expected, ones, name="metrics").wait()
    return expected


def _bounds(scores: NDArray[Any], comm: Comm) -> NDArray[Any]:
    """Ascending scores that cut all ranks' scores into ranges of about equal numbers."""
    offered = np.ones(_CANDIDATES, scores.dtype)
    if scores.size:
        spread = np.linspace(0, scores.size - 1, _SORTED_SAMPLE).astype(np.int64)
        offered = np.sort(scores[spread])[:: _SORTED_SAMPLE // _CANDIDATES].copy()
    every = np.empty(_CANDIDATES * comm.size, scores.dtype)
    comm.allgatherv(offered, every, [_CANDIDATES] * comm.size, name="metrics").wait()
    chosen: NDArray[Any] = np.sort(every)[_CANDIDATES::_CANDIDATES]
    return chosen


def _counts_above(positive: NDArray[np.bool_], comm: Comm) -> tuple[int, int]:
    """Negatives and positives of the ranks whose ranges lie above this one's."""
    winners = int(np.count_nonzero(positive))
    every = exchange_json(comm, [positive.size - winners, winners], name="metrics")
    every = every[comm.rank + 1 :]
    return sum(own[0] for own in every), sum(own[1] for own in every)
