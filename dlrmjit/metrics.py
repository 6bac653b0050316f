"""Quality of predicted probabilities, with scikit-learn's values.

Scores that tie are exchangeable, so every curve here moves over a whole group of equal scores
at once. A metric whose definition has no value for the given data is NaN, silently:
a constant label during a short test is ordinary, not worth a warning per test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from dlrmjit_kernels import auc as radix
from numpy.typing import ArrayLike, NDArray

from dlrmjit.errors import ShapeError

F64 = NDArray[np.float64]

NAN = float("nan")
BLOCK = 1 << 20
"""Scores that are looked at in float64, or sent, at a time."""
MANY = 1 << 17
"""Scores from which on the fixed cost of the radix kernel is repaid."""


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
    found = totals(raw, labels)
    if found.undefined:
        return metrics_from(found, 0, 0.0)
    return metrics_from(found, *ranking_sums(raw, labels == 1))


@dataclass(frozen=True)
class Totals:
    """Numbers of samples of some kinds, and their log losses added up.

    ``odd`` targets are neither 0 nor 1, ``broken`` scores no numbers.
    """

    samples: float = 0
    correct: float = 0
    odd: float = 0
    broken: float = 0
    hits: float = 0
    predicted: float = 0
    positives: float = 0
    loss: float = 0

    @property
    def undefined(self) -> bool:
        """Whether no order of the scores could give a ranking a value."""
        return not self.samples or bool(self.odd or self.broken)


def totals(scores: NDArray[Any], targets: NDArray[Any]) -> Totals:
    """Of scores and targets (N,), without copies of them all."""
    parts = (_totals(scores[at], targets[at]) for at in blocks(scores.size))
    return Totals(*sum(parts, np.zeros(len(fields(Totals)))).tolist())


def metrics_from(found: Totals, twice_wins: int, precision: float) -> Metrics:
    """All metrics, from the totals and the sums of the ranking of the same samples."""
    samples, positives = int(found.samples), int(found.positives)
    if not samples or found.odd:
        return Metrics(NAN, NAN, _ratio(found.correct, samples), NAN, NAN, NAN, NAN, samples)
    pairs = positives * (samples - positives)
    return Metrics(
        auc=NAN if found.broken else _ratio(twice_wins, 2 * pairs),
        logloss=found.loss / samples,
        accuracy=found.correct / samples,
        precision=_ratio(found.hits, found.predicted),
        recall=_ratio(found.hits, positives),
        f1=_ratio(2 * found.hits, found.predicted + positives),
        average_precision=NAN if found.broken else _ratio(precision, positives),
        samples=samples,
    )


def blocks(n: int) -> Iterator[slice]:
    """Slices of ``range(n)`` whose copies in float64 take little memory."""
    return (slice(at, min(at + BLOCK, n)) for at in range(0, n, BLOCK))


def _totals(raw: NDArray[Any], labels: NDArray[Any]) -> F64:
    """One block's, in the order of the fields of Totals."""
    rounded, t = np.round(raw.astype(np.float64)), labels.astype(np.float64)
    is_odd = (t != 0) & (t != 1)
    return np.array(
        [
            t.size,
            np.count_nonzero(rounded == t),
            np.count_nonzero(is_odd),
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
    """Twice the wins of positives over negatives, ties counting half, and the precision at each.

    ``scores`` (N,), none NaN; ``higher`` are the negatives and positives, elsewhere, that score
    higher than all of these. Many float32 scores go to the radix kernel, which needs neither a
    sort nor much memory.
    """
    if scores.dtype == np.float32 and scores.size >= MANY:
        return radix.ranking_sums(np.ascontiguousarray(scores, np.float32), positive, higher)
    _, group, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
    winners = np.bincount(group, positive, len(sizes)).astype(np.int64)
    losers = sizes - winners
    ahead = higher[1] + np.cumsum(winners)  # positives that score at least as high
    twice_wins = int((losers * (2 * ahead - winners)).sum(dtype=object))
    precision = ahead / (higher[0] + np.cumsum(losers) + ahead)
    return twice_wins, float(np.sum(winners * precision))


def log_loss(p: NDArray[np.floating[Any]], t: F64) -> float:
    """Mean of ``-log`` of the probability given to what happened.

    Probabilities are kept one rounding step of their own precision away from 0 and 1
    (``eps = finfo(dtype).eps``), so that a confident mistake costs much but not everything.
    """
    eps = float(np.finfo(p.dtype).eps)
    happened = np.where(t == 1, p.astype(np.float64), 1.0 - p.astype(np.float64))
    return float(-np.log(np.clip(happened, eps, 1.0 - eps)).mean())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else NAN
