"""How much computation each query is worth: the closed form of CRAS and DCAF.

Ranking x of a query's candidates is worth R(x), concave in x. To maximise the sum of R_i(x_i) with
a sum of costs c_i x_i within a budget, all queries get the same marginal value per cost, the price
lambda: R_i'(x_i) = lambda c_i, within the limits of each x_i. The cost falls in lambda, which is
found by bisection (Jiang et al., DCAF, arXiv 2006.09684; Yang et al., CRAS, arXiv 2103.02259; the
closed forms are derived here).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlrmjit.errors import ConfigError

Floats = NDArray[np.float64]
Kind = Literal["log", "power", "exponential"]
_STEPS = 80  # of the bisection of log lambda: to the last bit
_TINY = 1e-300


@dataclass(frozen=True)
class Curves:
    """Values of ranking x candidates of m queries.

    ``log`` is a log(1 + x / b), ``power`` a x^b, ``exponential`` a (1 - exp(-x / b)); ``a`` (m,) is
    at least 0, ``b`` (m,) positive, and below 1 for ``power``. Raises ConfigError.
    """

    kind: Kind
    a: Floats
    b: Floats

    def __post_init__(self) -> None:
        a, b = np.broadcast_arrays(np.asarray(self.a, np.float64), np.asarray(self.b, np.float64))
        object.__setattr__(self, "a", a)
        object.__setattr__(self, "b", b)
        most = 1.0 if self.kind == "power" else np.inf
        if self.kind not in get_args(Kind) or (a < 0).any() or not ((b > 0) & (b < most)).all():
            raise ConfigError(
                f"{self.kind} curves need a at least 0 and b positive (below 1 for power), not "
                f"a {a} and b {b}"
            )

    def value(self, x: ArrayLike) -> Any:
        """Return R(x)."""
        x = np.asarray(x, np.float64)
        if self.kind == "power":
            return self.a * x**self.b
        return self.a * (np.log1p(x / self.b) if self.kind == "log" else -np.expm1(-x / self.b))

    def best(self, price: ArrayLike) -> Any:
        """Return the x at which one candidate more is worth ``price``; not limited."""
        price = np.maximum(price, _TINY)
        with np.errstate(over="ignore", divide="ignore"):
            if self.kind == "log":
                return self.a / price - self.b
            if self.kind == "exponential":
                return self.b * np.log(self.a / (self.b * price))
            return (self.a * self.b / price) ** (1 / (1 - self.b))


@dataclass(frozen=True)
class Allocation:
    """Candidates x (m,) of each query, and the price of a unit of cost."""

    x: Floats
    price: float


@dataclass(frozen=True)
class Allocator:
    """Spreads a budget over queries. Pure: arrays in, arrays out.

    Parameters
    ----------
    curves : what ranking is worth to each query
    cost : cost c of a candidate, one number or (m,)
    least, most : limits of x, numbers or (m,); the budget yields to ``least``
    """

    curves: Curves
    cost: ArrayLike
    least: ArrayLike
    most: ArrayLike

    def at_price(self, price: float) -> Floats:
        """Return the x (m,) at a price of cost."""
        cost = np.asarray(self.cost, np.float64)
        most = np.asarray(self.most, np.float64)
        x: Floats = np.clip(self.curves.best(price * cost), np.minimum(self.least, most), most)
        return np.where(self.curves.a > 0, x, np.minimum(self.least, most))

    def spent(self, x: Floats) -> float:
        """Return the cost of an allocation."""
        return float(np.sum(np.asarray(self.cost, np.float64) * x))

    def solve(self, budget: float) -> Allocation:
        """Return the best allocation within a budget; its price is 0 if the budget is enough."""
        free = self.at_price(0.0)
        if self.spent(free) <= budget:
            return Allocation(free, 0.0)
        low, high = -200.0, 200.0  # log of the price
        for _ in range(_STEPS):
            middle = (low + high) / 2
            if self.spent(self.at_price(float(np.exp(middle)))) > budget:
                low = middle
            else:
                high = middle
        price = float(np.exp(high))
        return Allocation(self.at_price(price), price)

    def whole(self, budget: float) -> NDArray[np.int64]:
        """Return whole numbers of candidates: rounded down, then the best next ones added."""
        x = self.solve(budget).x
        floor = np.maximum(np.floor(x + 1e-9), np.ceil(np.minimum(self.least, self.most)))
        cost = np.broadcast_to(np.asarray(self.cost, np.float64), floor.shape)
        gain = (self.curves.value(floor + 1) - self.curves.value(floor)) / cost
        left = budget - self.spent(floor)
        for i in np.argsort(-gain):
            if floor[i] + 1 <= np.broadcast_to(self.most, floor.shape)[i] and cost[i] <= left:
                floor[i] += 1
                left -= cost[i]
        return floor.astype(np.int64)
