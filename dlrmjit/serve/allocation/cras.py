"""The policy ``cras``: as many candidates as a query is worth at the present price of a CPU.

Value curves are learned while the server runs, per class of the number of candidates, from queries
all of whose candidates were ranked.
"""

from __future__ import annotations

import math
from collections import deque
from typing import get_args

import numpy as np

from dlrmjit.serve.allocation.allocate import Allocator, Curves, Kind
from dlrmjit.serve.allocation.control import Mpc
from dlrmjit.serve.allocation.values import fitted, truncated_values
from dlrmjit.serve.jobs import Job
from dlrmjit.serve.queries import Query

_GRID = 12  # sizes at which a value is computed
_EXPLORED = 50  # of so many queries one is ranked whole, so that curves follow the traffic
_NEEDED = 20  # observations before a curve is used
_REFIT = 10  # observations between fits
_KEPT = 400  # observations of a class
_RECENT = 500  # queries that stand for those to come
_NOTED = 0.03  # weight of a query in what could be ranked in time
_TOP = 10  # candidates that count as the answer, of a query that does not say


class CrasPolicy:
    """Allocates by value curves and a price that :class:`.Mpc` sets.

    ``tick_seconds`` pass between calls of :meth:`tick`.
    """

    def __init__(self, tick_seconds: float, control: Mpc | None = None) -> None:
        self.price = 0.0
        self._control, self._seconds = control or Mpc(), tick_seconds
        self._classes: dict[int, _Class] = {}
        self._recent: deque[tuple[int, int, float, float]] = deque(maxlen=_RECENT)
        self._arrivals = self._count = 0
        self._in_time = 1.0  # share of the candidates worth their cost that could be ranked in time

    def choose(self, query: Query, most: int, cost: float) -> int:
        """Return how many candidates are worth their cost."""
        n = len(query)
        curve = self._curve(_class_of(n))
        self._arrivals += 1
        self._count += 1
        self._recent.append((_class_of(n), n, query.weight, cost))
        if curve is None or self._count % _EXPLORED == 0 or self.price <= 0:
            return most
        x = curve.best(self.price * cost / max(query.weight, 1e-12))
        worth = int(min(n, max(0.0, math.floor(float(x)))))
        if worth:
            self._in_time += _NOTED * (min(most, worth) / worth - self._in_time)
        return min(most, worth)

    def observe(self, job: Job) -> None:
        """Learn from a query of which all candidates were ranked."""
        if job.query.kind == "rank" and job.chosen == len(job) and len(job) > 1:
            self._class(len(job)).add(job.model_scores, job.query.top or _TOP)

    def tick(self, capacity: float, waiting: float) -> None:
        """Set the price for the next tick."""
        arrivals, self._arrivals = self._arrivals, 0
        if not self._recent:
            return
        self.price = self._control.update(
            arrivals, capacity * self._seconds, waiting, self._price_of
        )

    def _curve(self, key: int) -> Curves | None:
        """Return the curve of a class, or of the nearest one that has a curve."""
        known = [other for other, found in self._classes.items() if found.curve is not None]
        if not known:
            return None
        return self._classes[min(known, key=lambda other: abs(other - key))].curve

    def _class(self, n: int) -> _Class:
        return self._classes.setdefault(_class_of(n), _Class())

    def _price_of(self, seconds: float) -> float:
        """Return the price at which recent queries would cost so many seconds on average."""
        rows, seconds = list(self._recent), seconds / max(self._in_time, 0.5)
        known = [curve for key, _, _, _ in rows if (curve := self._curve(key)) is not None]
        if len(known) < len(rows):
            return 0.0  # nothing is known yet: rank all
        n, weight, cost = (np.array(column) for column in list(zip(*rows, strict=True))[1:])
        whole = float(np.sum(n * cost)) / _EXPLORED  # of the queries that are ranked whole
        budget = max(0.0, seconds * len(rows) - whole) * _EXPLORED / (_EXPLORED - 1)
        return _price(known, weight, cost, n, budget)


def _price(
    curves: list[Curves], weight: np.ndarray, cost: np.ndarray, n: np.ndarray, budget: float
) -> float:
    """Return the price of a budget for queries with curves of one kind or of both."""
    low, high = -60.0, 60.0
    parts = []
    for kind in get_args(Kind):
        chosen = [i for i, curve in enumerate(curves) if curve.kind == kind]
        if chosen:
            a = np.array([float(curves[i].a) for i in chosen]) * weight[chosen]
            b = np.array([float(curves[i].b) for i in chosen])
            parts.append(Allocator(Curves(kind, a, b), cost[chosen], 0, n[chosen]))
    if sum(part.spent(part.at_price(0.0)) for part in parts) <= budget:
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2
        spent = sum(part.spent(part.at_price(math.exp(middle))) for part in parts)
        low, high = (middle, high) if spent > budget else (low, middle)
    return math.exp(high)


class _Class:
    """Queries of about as many candidates: their values at a grid of sizes, and the curve."""

    def __init__(self) -> None:
        self.curve: Curves | None = None
        self._values: deque[np.ndarray] = deque(maxlen=_KEPT)
        self._sizes: list[int] = []
        self._seen = 0

    def add(self, scores: np.ndarray, top: int) -> None:
        """Add a query whose candidates were all ranked; ``scores`` are in the prerank's order."""
        if not self._sizes:
            grid = np.unique(np.geomspace(1, len(scores), _GRID).astype(int))
            self._sizes = [int(size) for size in grid]
        self._values.append(truncated_values(scores, top, self._sizes))
        self._seen += 1
        if self._seen >= _NEEDED and self._seen % _REFIT == 0:
            self.curve = fitted(self._sizes, np.mean(self._values, axis=0))


def _class_of(n: int) -> int:
    """Return the class of a number of candidates: a factor of the root of 2 wide."""
    return round(2 * math.log2(max(1, n)))
