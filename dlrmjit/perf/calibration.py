"""Whether predicted probabilities are those that are observed, in bins of the prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 20


@dataclass(frozen=True)
class Bin:
    """Samples whose prediction is from ``low`` to ``high``: their number and two means."""

    low: float
    high: float
    count: int
    predicted: float
    observed: float


def calibration_sums(scores: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
    """Return counts, sums of scores and sums of targets (3, BINS); sums of parts may be added."""
    number = np.clip((scores.astype(np.float64) * BINS).astype(np.int64), 0, BINS - 1)
    weights = (None, scores, targets)
    return np.array([np.bincount(number, w, minlength=BINS) for w in weights], np.float64)


def calibration_bins(sums: NDArray[np.float64]) -> list[Bin]:
    """Return the bins that have samples, from their sums."""
    return [
        Bin(i / BINS, (i + 1) / BINS, int(count), score / count, target / count)
        for i, (count, score, target) in enumerate(sums.T.tolist())
        if count
    ]
