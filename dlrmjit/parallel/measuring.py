"""Exact metrics of scores that are spread over ranks; no rank ever has all of them.

Scores are dealt out by value: each rank gets one range of them, equal scores together. Within
a range the curves follow from counts, given how many positives and negatives lie below it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.source import Source
from dlrmjit.metrics import NAN, Metrics, log_loss
from dlrmjit.parallel.comm import Comm
from dlrmjit.parallel.model import ShardedDLRM
from dlrmjit.parallel.routing import ShardedSource

_SAMPLES = 64  # of its scores that each rank offers for the bounds of the ranges

F64 = NDArray[np.float64]


def evaluate(
    model: ShardedDLRM, source: Source | ShardedSource, *, threshold: float = 0.0
) -> Metrics:
    """Metrics of ``model`` on all of ``source``; the same on every rank.

    As :func:`dlrmjit.fitting.evaluate`.
    """
    if not isinstance(source, ShardedSource):
        source = ShardedSource(source, model.router)
    scores, targets = [np.empty(0, np.float32)], [np.empty(0, np.float32)]
    for batch in source.batches():
        scores.append(model.predict_proba(batch, threshold=threshold))
        targets.append(batch.labels)
    return gathered_metrics(np.concatenate(scores), np.concatenate(targets), model.comm)


def gathered_metrics(scores: NDArray[Any], targets: NDArray[Any], comm: Comm) -> Metrics:
    """Metrics of all ranks' scores and targets, as :func:`~dlrmjit.metrics.compute_metrics`."""
    p, t = scores.astype(np.float64), targets.astype(np.float64)
    n, correct, hits, predicted, positives, loss, odd, broken = _sums(scores, p, t, comm)
    if n == 0 or odd:
        return Metrics(NAN, NAN, _ratio(correct, n), NAN, NAN, NAN, NAN, int(n))
    auc, average = _curves(*_groups(*_by_value(p, t, comm)), comm)
    return Metrics(
        auc=NAN if broken else auc,
        logloss=_ratio(loss, n),
        accuracy=_ratio(correct, n),
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, positives),
        f1=_ratio(2 * hits, predicted + positives),
        average_precision=NAN if broken else average,
        samples=int(n),
    )


def _sums(raw: NDArray[Any], p: F64, t: F64, comm: Comm) -> list[float]:
    """Over all ranks: samples, correct ones, hits, predicted positives, positives, sum of log
    losses, targets that are no class, scores that are no number."""
    rounded = np.round(p)
    own = np.array(
        [
            p.size,
            np.count_nonzero(rounded == t),
            np.count_nonzero((rounded == 1) & (t == 1)),
            np.count_nonzero(rounded == 1),
            np.count_nonzero(t),
            log_loss(raw, t) * p.size if p.size else 0.0,
            np.count_nonzero((t != 0) & (t != 1)),
            np.count_nonzero(np.isnan(p)),
        ],
        np.float64,
    )
    comm.allreduce(own, name="metrics").wait()
    return [float(value) for value in own]


def _by_value(p: F64, t: F64, comm: Comm) -> tuple[F64, F64]:
    """This rank's range of all scores, and their targets."""
    target = np.searchsorted(_bounds(p, comm), p, side="right")
    order = np.argsort(target, kind="stable")
    counts = np.bincount(target, minlength=comm.size)
    expected = np.empty_like(counts)
    ones = [1] * comm.size
    comm.alltoallv(counts, ones, expected, ones, name="metrics").wait()
    received = []
    for values in (p, t):
        arrived = np.empty(int(expected.sum()), np.float64)
        sent, got = counts.tolist(), expected.tolist()
        comm.alltoallv(values[order], sent, arrived, got, name="metrics").wait()
        received.append(arrived)
    return received[0], received[1]


def _bounds(p: F64, comm: Comm) -> F64:
    """Ascending scores that cut all ranks' scores into ranges of about equal numbers."""
    offered = np.ones(_SAMPLES)
    if p.size:
        offered = np.sort(p)[np.linspace(0, p.size - 1, _SAMPLES).astype(np.int64)]
    every = np.empty(_SAMPLES * comm.size)
    comm.allgatherv(offered, every, [_SAMPLES] * comm.size, name="metrics").wait()
    chosen: F64 = np.sort(every)[_SAMPLES::_SAMPLES]
    return chosen


def _groups(p: F64, t: F64) -> tuple[F64, F64]:
    """Positives and negatives of each distinct score, ascending."""
    _, group = np.unique(p, return_inverse=True)
    positives = np.bincount(group, t).astype(np.float64)
    return positives, np.bincount(group) - positives


def _curves(positives: F64, negatives: F64, comm: Comm) -> tuple[float, float]:
    """Area under the ROC curve, and average precision."""
    totals = np.empty(2 * comm.size)
    own = np.array([positives.sum(), negatives.sum()])
    comm.allgatherv(own, totals, [2] * comm.size, name="metrics").wait()
    below = totals[: 2 * comm.rank].reshape(-1, 2).sum(axis=0)
    above = totals[2 * comm.rank + 2 :].reshape(-1, 2).sum(axis=0)
    all_positives, all_negatives = totals.reshape(-1, 2).sum(axis=0)
    negatives_below = below[1] + np.cumsum(negatives) - negatives
    found = above[0] + np.cumsum(positives[::-1])
    taken = above.sum() + np.cumsum((positives + negatives)[::-1])
    areas = np.array(
        [
            np.sum(positives * (negatives_below + negatives / 2)),
            np.sum(positives[::-1] * found / taken),
        ]
    )
    comm.allreduce(areas, name="metrics").wait()
    auc = _ratio(float(areas[0]), float(all_positives * all_negatives))
    return auc, _ratio(float(areas[1]), float(all_positives))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
