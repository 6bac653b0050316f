"""The price of computation in time: it follows the traffic so that the CPUs are just busy.

Model predictive control: every tick the traffic of the next ones is predicted, and the price at
which it fills the capacity is solved for, what waits already included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Forecast:
    """The next rate of arrivals, from their level and trend (Holt's double smoothing)."""

    level_weight: float = 0.5
    trend_weight: float = 0.1
    level: float = 0.0
    trend: float = 0.0
    _started: bool = field(default=False, init=False)

    def add(self, rate: float) -> None:
        """Take in the rate of a tick."""
        if not self._started:
            self.level, self._started = rate, True
            return
        before = self.level
        self.level += self.level_weight * (rate - self.level - self.trend) + self.trend
        self.trend += self.trend_weight * (self.level - before - self.trend)

    def ahead(self, ticks: float) -> float:
        """Return the rate in so many ticks."""
        return max(0.0, self.level + self.trend * ticks)


@dataclass
class Mpc:
    """The price at which the traffic of the next ``horizon`` ticks fills the capacity.

    What waits above ``slack`` ticks of work is worked off within the horizon. The ``target`` is
    above 1, because what a moment without queries leaves idle cannot be used later.
    """

    target: float = 1.02
    horizon: float = 10.0
    slack: float = 0.2
    forecast: Forecast = field(default_factory=Forecast)

    def update(
        self,
        arrivals: float,
        capacity: float,
        waiting: float,
        price_of: Callable[[float], float],
    ) -> float:
        """Return the next price.

        ``arrivals`` are the queries of the last tick, ``capacity`` and ``waiting`` seconds of CPU
        per tick; ``price_of`` returns the price at which a query costs so many seconds on average.
        """
        self.forecast.add(arrivals)
        excess = max(0.0, waiting - self.slack * capacity)
        budget = max(0.02 * capacity, self.target * capacity - excess / self.horizon * 2)
        return price_of(budget / max(self.forecast.ahead(1.0), 1e-9))
