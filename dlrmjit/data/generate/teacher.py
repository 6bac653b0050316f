"""The model that draws synthetic labels: its click probabilities are known.

Its logit is the sum of three parts that a DLRM can express: a linear form of the dense features,
one weight per looked-up row, and a factorisation machine over all tables (Rendle, "Factorization
Machines", ICDM 2010). A DLRM that is broken in one place loses one of them. Only the most frequent
rows of a table carry weights, so a student sees each of them often enough to learn it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Number of rows of a table, the most frequent ones, that carry weights.
INFORMATIVE_ROWS = 512
#: Length of the vector with which a row interacts with rows of other tables.
RANK = 2
#: Shares of the dense, the first-order and the interaction part in the logit.
MIX = np.array([[0.60], [0.60], [0.55]], dtype=np.float32)
#: Standard deviation of the logit; with CLICK_RATE the teacher's AUC is near 0.80.
LOGIT_STD = 1.37
CLICK_RATE = 0.25


class Teacher:
    """Weights drawn from ``seed`` for tables of ``table_rows`` rows and D dense features.

    Call :meth:`calibrate` with :meth:`parts` of a large sample before :meth:`logits`.
    """

    def __init__(self, table_rows: Sequence[int], dense_features: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 0x7EAC])
        self._dense = rng.standard_normal(dense_features, dtype=np.float32)
        self._effects = [_row_effects(rng, rows) for rows in table_rows]
        self._centre = np.zeros((3, 1), dtype=np.float32)
        self._scale = np.ones((3, 1), dtype=np.float32)
        self._bias = 0.0

    def parts(
        self, dense: NDArray[np.float32], rows: Sequence[NDArray[Any]]
    ) -> NDArray[np.float32]:
        """Return the three parts of the logit (3, N) before calibration.

        ``dense`` is (N, D); ``rows[s]`` (N, P) are the lookups in table s. A bag has the mean of
        its rows' weights.
        """
        total = np.zeros((1 + RANK, len(dense)), dtype=np.float32)
        squares = np.zeros_like(total)
        for effects, table in zip(self._effects, rows, strict=True):
            bag = np.einsum("enp->en", effects.take(table, axis=1, mode="clip"))
            bag /= np.float32(table.shape[1])
            total += bag
            squares += bag * bag
        # (sum of bags)^2 - sum of bags^2 is twice the sum of products of two different tables
        between = (total * total - squares)[1:].sum(axis=0)
        return np.stack([np.einsum("nd,d->n", dense, self._dense), total[0], between])

    def calibrate(self, parts: NDArray[np.float32]) -> None:
        """Scale the parts to their shares and choose the bias that gives the click rate."""
        self._centre = parts.mean(axis=1, keepdims=True)
        self._scale = MIX / np.maximum(parts.std(axis=1, keepdims=True), 1e-6)
        logits = self.logits(parts)
        self._scale *= LOGIT_STD / max(logits.std(), 1e-6)
        self._bias = _bias_for(self.logits(parts), CLICK_RATE)

    def logits(self, parts: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return log odds of a click (N,) from :meth:`parts`."""
        total = ((parts - self._centre) * self._scale).sum(axis=0) + np.float32(self._bias)
        return np.asarray(total, dtype=np.float32)


def _row_effects(rng: np.random.Generator, rows: int) -> NDArray[np.float32]:
    """Return weight and interaction vector of each informative row, and a last column of zeros.

    Both decrease with a row's rank. Small tables interact most, because their rows are frequent.
    """
    effects = rng.standard_normal((1 + RANK, INFORMATIVE_ROWS + 1), dtype=np.float32)
    effects /= np.sqrt(np.arange(1, INFORMATIVE_ROWS + 2, dtype=np.float32))
    effects[1:] /= np.float32(rows**0.5)
    effects[:, -1] = 0
    return effects


def probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probability of a click from its log odds."""
    return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32)


def expected_auc(logits: NDArray[np.float32]) -> float:
    """Return the expected AUC of these log odds over labels drawn from them."""
    # pairs of a click ranked above a non-click, over all pairs of two different samples
    click = np.sort(probability(logits)).astype(np.float64)
    below = np.cumsum(1 - click) - (1 - click)
    pairs = click.sum() * (1 - click).sum() - (click * (1 - click)).sum()
    return float((click * below).sum() / pairs)


def _bias_for(logits: NDArray[np.float32], rate: float) -> float:
    """Bisect for the constant that makes the mean probability ``rate``."""
    low, high = -20.0, 20.0
    for _ in range(30):
        middle = (low + high) / 2
        if probability(logits + np.float32(middle)).mean() < rate:
            low = middle
        else:
            high = middle
    return low
