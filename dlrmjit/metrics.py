"""Measures the quality of predicted probabilities, with scikit-learn's values.

Scores that tie are exchangeable, so every curve here takes a whole group of equal scores in one
step. A metric that is undefined for the given data is NaN without a warning: a constant label
during a short test is ordinary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from dlrmjit_kernels import auc as radix
from numpy.typing import ArrayLike, NDArray

from dlrmjit.errors import ShapeError

F64 = NDArray[np.float64]

NAN = float("nan")
BLOCK = 1 << 20
"""Scores that are converted to float64, or sent, at a time."""
RADIX_MIN_SCORES = 1 << 17
"""Scores from which on the radix kernel is faster than a sort."""


@dataclass(frozen=True)
class Metrics:
    """Results of a test over ``samples`` samples.

    Attributes
    ----------
    auc
        Area under the ROC curve; NaN without both classes.
    logloss
        Mean cross entropy in nats; NaN without a sample.
    accuracy
        Share of samples whose rounded probability is the target; NaN without a sample.
    precision
        True positives of predicted positives; NaN if nothing is predicted positive.
    recall
        True positives of positives; NaN without a positive.
    f1
        Harmonic mean of the two, ``2 tp / (2 tp + fp + fn)``; NaN if that divides by zero.
    average_precision
        Mean of the precision over the steps of recall; NaN without a positive.
    samples
        Number of samples.

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


@dataclass(frozen=True)
class RankingMetrics(Metrics):
    """Results of a test on lists: of their rows, and means over lists.

    Attributes
    ----------
    ndcg, ndcg_10, mrr, map, gauc, kendall_tau, rank_accuracy
        Those of :class:`~dlrmjit.ranking.metrics.ListMetrics`; ``ndcg_10`` is NDCG@10.
    lists
        Number of lists.
    """

    ndcg: float
    ndcg_10: float
    mrr: float
    map: float
    gauc: float
    kendall_tau: float
    rank_accuracy: float
    lists: int

    @classmethod
    def of(cls, metrics: Metrics, found: Mapping[str, float]) -> RankingMetrics:
        """Return metrics of rows with those of their lists, by name."""
        own = {field.name for field in fields(cls)} - {field.name for field in fields(Metrics)}
        values: dict[str, Any] = {name: found[name.replace("_10", "@10")] for name in own}
        return cls(**vars(metrics), **values)


def compute_metrics(scores: ArrayLike, targets: ArrayLike) -> Metrics:
    """Return all metrics of probabilities (N,) or (N, 1) against targets of the same length.

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
    sums = totals(raw, labels)
    if sums.undefined:
        return metrics_from(sums, 0, 0.0)
    return metrics_from(sums, *ranking_sums(raw, labels == 1))


@dataclass(frozen=True)
class Totals:
    """Counts of samples, and the sum of their log losses; totals of parts may be added.

    ``invalid_targets`` counts targets that are neither 0 nor 1.
    """

    samples: float = 0
    correct: float = 0
    invalid_targets: float = 0
    nan_scores: float = 0
    true_positives: float = 0
    predicted_positives: float = 0
    positives: float = 0
    loss: float = 0

    @property
    def undefined(self) -> bool:
        """Whether the metrics of a ranking are undefined."""
        return not self.samples or bool(self.invalid_targets or self.nan_scores)


def totals(scores: NDArray[Any], targets: NDArray[Any]) -> Totals:
    """Return the totals of scores and targets (N,), converting only a block of them at a time."""
    parts = (_block_totals(scores[block], targets[block]) for block in blocks(scores.size))
    return Totals(*sum(parts, np.zeros(len(fields(Totals)))).tolist())


def metrics_from(sums: Totals, twice_wins: int, precision: float) -> Metrics:
    """Return all metrics, given the totals and :func:`ranking_sums` of the same samples."""
    samples, positives = int(sums.samples), int(sums.positives)
    if not samples or sums.invalid_targets:
        return Metrics(NAN, NAN, _ratio(sums.correct, samples), NAN, NAN, NAN, NAN, samples)
    pairs = positives * (samples - positives)
    return Metrics(
        auc=NAN if sums.nan_scores else _ratio(twice_wins, 2 * pairs),
        logloss=sums.loss / samples,
        accuracy=sums.correct / samples,
        precision=_ratio(sums.true_positives, sums.predicted_positives),
        recall=_ratio(sums.true_positives, positives),
        f1=_ratio(2 * sums.true_positives, sums.predicted_positives + positives),
        average_precision=NAN if sums.nan_scores else _ratio(precision, positives),
        samples=samples,
    )


def blocks(n: int) -> Iterator[slice]:
    """Return slices of ``range(n)`` whose copies in float64 take little memory."""
    return (slice(first, min(first + BLOCK, n)) for first in range(0, n, BLOCK))


def _block_totals(raw: NDArray[Any], labels: NDArray[Any]) -> F64:
    """Return the totals of one block in the order of the fields of Totals."""
    rounded, t = np.round(raw.astype(np.float64)), labels.astype(np.float64)
    is_invalid = (t != 0) & (t != 1)
    return np.array(
        [
            t.size,
            np.count_nonzero(rounded == t),
            np.count_nonzero(is_invalid),
            np.count_nonzero(np.isnan(raw)),
            np.count_nonzero((rounded == 1) & (t == 1)),
            np.count_nonzero(rounded == 1),
            np.count_nonzero(t),
            log_loss(raw, t) * t.size,
        ],
        np.float64,
    )


def ranking_sums(
    scores: NDArray[np.floating[Any]],
    positive: NDArray[np.bool_],
    higher: tuple[int, int] = (0, 0),
) -> tuple[int, float]:
    """Return twice the wins of positives over negatives, and the sum of precisions.

    A win is a pair of a positive and a negative of which the positive scores higher; a tie counts
    half. The precision is taken at the score of each positive.

    Parameters
    ----------
    scores : (N,), none of them NaN
    positive : (N,), which of them are of positive samples
    higher : numbers of negatives and of positives, on other ranks, that score higher than all
        of these
    """
    if scores.dtype == np.float32 and scores.size >= RADIX_MIN_SCORES:
        return radix.ranking_sums(np.ascontiguousarray(scores, np.float32), positive, higher)
    _, group, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
    winners = np.bincount(group, positive, len(sizes)).astype(np.int64)
    losers = sizes - winners
    at_least = higher[1] + np.cumsum(winners)  # positives that score at least as high
    twice_wins = int(
        (losers * (2 * at_least - winners)).sum(dtype=object)
    )  # exact: may exceed 2**63
    precision = at_least / (higher[0] + np.cumsum(losers) + at_least)
    return twice_wins, float(np.sum(winners * precision))


def log_loss(p: NDArray[np.floating[Any]], t: F64) -> float:
    """Return the mean of ``-log`` of the probability of the actual class.

    Probabilities are clipped to [eps, 1 - eps] with ``eps = finfo(p.dtype).eps``, so that a
    confident mistake costs much but not infinitely much.
    """
    eps = float(np.finfo(p.dtype).eps)
    actual = np.where(t == 1, p.astype(np.float64), 1.0 - p.astype(np.float64))
    return float(-np.log(np.clip(actual, eps, 1.0 - eps)).mean())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else NAN
