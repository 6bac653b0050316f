"""Quality of predicted probabilities, with scikit-learn's values.

Scores that tie are exchangeable, so every curve here moves over a whole group of equal scores
at once. A metric whose definition has no value for the given data is NaN, silently:
a constant label during a short test is ordinary, not worth a warning per test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from dlrmjit_kernels.auc import ranking_metrics
from numpy.typing import ArrayLike, NDArray

from dlrmjit.errors import ShapeError

F64 = NDArray[np.float64]

NAN = float("nan")
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
    p, t = raw.astype(np.float64), np.asarray(targets, dtype=np.float64).reshape(-1)
    if p.size != t.size:
        raise ShapeError(f"there are {p.size} scores, but {t.size} targets")
    if p.size == 0 or not np.all((t == 0) | (t == 1)):
        return Metrics(NAN, NAN, accuracy(p, t), NAN, NAN, NAN, NAN, p.size)
    true_positives, predicted, positives = _counts(p, t)
    auc, average = ranking(raw, t)
    return Metrics(
        auc=auc,
        logloss=log_loss(raw, t),
        accuracy=accuracy(p, t),
        precision=_ratio(true_positives, predicted),
        recall=_ratio(true_positives, positives),
        f1=_ratio(2 * true_positives, predicted + positives),
        average_precision=average,
        samples=p.size,
    )


def ranking(scores: NDArray[np.floating[Any]], t: F64) -> tuple[float, float]:
    """Area under the ROC curve and average precision of scores against targets 0 and 1.

    Many float32 scores go to the radix kernel, which needs neither a sort nor much memory.
    """
    positive = t == 1
    is_large = scores.dtype == np.float32 and scores.size >= _MANY
    if is_large and positive.any() and not positive.all() and not np.isnan(scores).any():
        return ranking_metrics(np.ascontiguousarray(scores, np.float32), positive)
    p = scores.astype(np.float64)
    return roc_auc(p, t), average_precision(p, t)


def accuracy(p: F64, t: F64) -> float:
    """Share of samples with ``round(p) == t``; half rounds to even, as ``np.round`` does."""
    return _ratio(float(np.count_nonzero(np.round(p) == t)), p.size)


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


def _counts(p: F64, t: F64) -> tuple[float, float, float]:
    """True positives, predicted positives, positives."""
    predicted = np.round(p) == 1
    hits = np.count_nonzero(predicted & (t == 1))
    return float(hits), float(np.count_nonzero(predicted)), float(np.count_nonzero(t))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else NAN
