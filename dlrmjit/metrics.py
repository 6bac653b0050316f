"""Quality of predicted probabilities, with scikit-learn's values.

Scores that tie are exchangeable, so every curve here moves over a whole group of equal scores
at once. A metric whose definition has no value for the given data is NaN, silently:
a constant label during a short test is ordinary, not worth a warning per test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from dlrmjit_kernels.auc import ranking_metrics
from numpy.typing import ArrayLike, NDArray

from dlrmjit.errors import ShapeError

F64 = NDArray[np.float64]

NAN = float("nan")
_BLOCK = 1 << 20
_TOTALS = 6
_MANY = 1 << 17  # scores from which on the fixed cost of the radix kernel is repaid


@dataclass(frozen=True)
class Metrics:
    """What a test measured over ``samples`` samples.

    Attributes
    ----------
    auc
        Area under the ROC curve; NaN without both classes.
    logloss
        Mean cross entropy in nats; NaN if there is no sample.
    accuracy
        Share of samples whose rounded probability is the target; NaN if there is no sample.
    precision
        True positives of predicted positives; NaN if nothing is predicted positive.
    recall
        True positives of positives; NaN without a positive.
    f1
        Harmonic mean of the two, ``2 tp / (2 tp + fp + fn)``; NaN if that divides by zero.
    average_precision
        Mean of the precision over the steps of recall; NaN without a positive.
    samples
        How many samples were measured.

    All but ``accuracy`` and ``samples`` are NaN if any target is neither 0 nor 1.
    """

    auc: float
    logloss: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    average_precision: float
    samples: int


def compute_metrics(scores: ArrayLike, targets: ArrayLike) -> Metrics:
    """All metrics of probabilities (N,) or (N, 1) against targets of the same length.

    The predicted class is ``np.round(score)``: a score of exactly 0.5 predicts 0.

    Raises
    ------
    ShapeError
        If the two differ in length.
    """
    raw = np.asarray(scores).reshape(-1)
    raw = raw if np.issubdtype(raw.dtype, np.floating) else raw.astype(np.float64)
    labels = np.asarray(targets).reshape(-1)
    if raw.size != labels.size:
        raise ShapeError(f"there are {raw.size} scores, but {labels.size} targets")
    totals = sum((_totals(raw[at], labels[at]) for at in _blocks(raw.size)), np.zeros(_TOTALS))
    correct, odd, hits, predicted, positives, loss = totals.tolist()
    if raw.size == 0 or odd:
        return Metrics(NAN, NAN, _ratio(correct, raw.size), NAN, NAN, NAN, NAN, raw.size)
    auc, average = ranking(raw, labels == 1)
    return Metrics(
        auc=auc,
        logloss=loss / raw.size,
        accuracy=correct / raw.size,
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, positives),
        f1=_ratio(2 * hits, predicted + positives),
        average_precision=average,
        samples=raw.size,
    )


def _blocks(n: int) -> Iterator[slice]:
    """Slices of ``range(n)`` whose copies in float64 take little memory."""
    return (slice(at, at + _BLOCK) for at in range(0, n, _BLOCK))


def _totals(raw: NDArray[Any], labels: NDArray[Any]) -> F64:
    """Correct predictions, targets of no class, hits, predicted positives, positives, log loss."""
    rounded, t = np.round(raw.astype(np.float64)), labels.astype(np.float64)
    is_odd = (t != 0) & (t != 1)
    return np.array(
        [
            np.count_nonzero(rounded == t),
            np.count_nonzero(is_odd),
            np.count_nonzero((rounded == 1) & (t == 1)),
            np.count_nonzero(rounded == 1),
            np.count_nonzero(t),
            log_loss(raw, t) * t.size,
        ],
        np.float64,
    )


def ranking(scores: NDArray[np.floating[Any]], positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Area under the ROC curve and average precision of scores, by whether each is positive.

    Many float32 scores go to the radix kernel, which needs neither a sort nor much memory.
    """
    is_large = scores.dtype == np.float32 and scores.size >= _MANY
    if is_large and positive.any() and not positive.all() and not np.isnan(scores.min()):
        return ranking_metrics(np.ascontiguousarray(scores, np.float32), positive)
    p, t = scores.astype(np.float64), positive.astype(np.float64)
    return roc_auc(p, t), average_precision(p, t)


def log_loss(p: NDArray[np.floating[Any]], t: F64) -> float:
    """Mean of ``-log`` of the probability given to what happened.

    Probabilities are kept one rounding step of their own precision away from 0 and 1
    (``eps = finfo(dtype).eps``), so that a confident mistake costs much but not everything.
    """
    eps = float(np.finfo(p.dtype).eps)
    happened = np.where(t == 1, p.astype(np.float64), 1.0 - p.astype(np.float64))
    return float(-np.log(np.clip(happened, eps, 1.0 - eps)).mean())


def roc_auc(p: F64, t: F64) -> float:
    """Probability that a positive scores above a negative, a tie counting half.

    Mann-Whitney: from the sum of the positives' ranks, tied scores sharing their mean rank.
    """
    positives = float(np.count_nonzero(t))
    negatives = t.size - positives
    if not positives or not negatives or np.isnan(p).any():
        return NAN
    rank_sum = float(_mean_ranks(p)[t == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def average_precision(p: F64, t: F64) -> float:
    """Sum over the distinct scores, highest first, of precision times the step in recall."""
    positives = float(np.count_nonzero(t))
    if not positives or np.isnan(p).any():
        return NAN
    order = np.argsort(-p, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(p[order])), p.size - 1)
    found = np.cumsum(t[order])[last_of_ties]
    precision = found / (last_of_ties + 1)
    return float(np.sum(np.diff(found, prepend=0.0) * precision) / positives)


def _mean_ranks(values: F64) -> F64:
    """Ranks from 1; equal values share the mean of the ranks they span."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes).astype(np.float64)
    mean_rank: F64 = (last - (sizes - 1) / 2)[group]
    return mean_rank


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else NAN
