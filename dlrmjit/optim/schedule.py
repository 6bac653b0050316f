"""Learning rates: a schedule over steps, and reductions when tests stop improving."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dlrmjit.config.training import PlateauConfig, Schedule, ScheduleConfig
from dlrmjit.errors import ConfigError

_LOWEST_DECAYED_RATE = 1e-7


def learning_rate(base: float, schedule: Schedule, step: int) -> float:
    """Return the learning rate of step 0, 1, ...: warm-up, constant, quadratic decay.

    A schedule that is a function gives a factor of ``base`` instead; raises ConfigError for one
    that is negative or not finite. As in the reference program, the first step already counts as
    one of the warm-up, and a schedule with a decay repeats its last rate between the phases and
    after them.
    """
    if not isinstance(schedule, ScheduleConfig):
        factor = float(schedule(step))
        if not 0 <= factor < math.inf:
            raise ConfigError(
                f"the schedule gives {factor} for step {step}, not a factor of a rate"
            )
        return base * factor
    count = step + 1
    warmup, start, length = schedule.warmup_steps, schedule.decay_start_step, schedule.decay_steps
    if count < warmup:
        return base * (1.0 - (warmup - count) / warmup)
    if length <= 0:
        return base
    if count < start:
        return base * (1.0 - 1.0 / warmup) if warmup > 1 else base
    left = max(length - (count - start), 1)
    return max(_LOWEST_DECAYED_RATE, base * (left / length) ** 2)


@dataclass(frozen=True)
class Plateau:
    """The ``factor`` by which tests have reduced the rate, and the tests since the ``best``."""

    factor: float = 1.0
    best: float = -math.inf
    waited: int = 0

    def after(self, metric: float, config: PlateauConfig) -> Plateau:
        """Return the plateau after one more test, of which a larger ``metric`` is better.

        As torch.optim.lr_scheduler.ReduceLROnPlateau with ``mode="max"`` and an absolute
        threshold. A test whose metric is NaN changes nothing.
        """
        if math.isnan(metric):
            return self
        if metric > self.best + config.threshold:
            return replace(self, best=metric, waited=0)
        if self.waited < config.patience:
            return replace(self, waited=self.waited + 1)
        return Plateau(self.factor * config.factor, self.best, 0)
