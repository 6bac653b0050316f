"""Scores of the rows of a test, batch by batch, in one process or on one of several ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.validate import check_labels, check_relevance
from dlrmjit.model.model import Model
from dlrmjit.ranking.metrics import ScoredLists


class TestedRows:
    """Probabilities and targets of rows, and the scores of their ``lists``, if they are in lists.

    Lists are ordered by logits: probabilities near 0 and 1 may be rounded to one number.
    """

    __test__ = False  # pytest must not collect it

    def __init__(self) -> None:
        self.scores: list[NDArray[Any]] = []
        self._targets: list[NDArray[Any]] = []
        self.lists: ScoredLists | None = None

    def add(
        self,
        model: Model,
        batch: Any,
        labels: NDArray[np.float32],
        lists: NDArray[np.int64] | None,
        threshold: float,
    ) -> None:
        """Score a batch of ``labels``. Raises DataError for labels that no test can have."""
        where = f"test batch {len(self.scores)}"
        self._targets.append(labels)
        if lists is None:
            self.scores.append(model.predict_proba(batch, threshold=threshold))
            check_labels(labels, where, soft=True)
            return
        probabilities, logits = model.predict_both(batch, threshold=threshold)
        check_relevance(labels, where)
        self.scores.append(probabilities)
        self.lists = self.lists or ScoredLists()
        self.lists.add(logits, labels, lists)

    def rows(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the probabilities and the targets of all rows."""
        none = np.empty(0, np.float32)
        return np.concatenate([none, *self.scores]), np.concatenate([none, *self._targets])
