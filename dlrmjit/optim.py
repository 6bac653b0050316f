"""Optimisers and learning rates.

A dense gradient is applied by the backend that stored it, a sparse one applies itself; an
optimiser only says which update and how large.
"""

from __future__ import annotations

from typing import Any

from dlrmjit.autograd import Variable
from dlrmjit.config import ScheduleConfig
from dlrmjit.errors import ConfigError
from dlrmjit.ops.backend import Backend

_LOWEST_DECAYED_RATE = 1e-7


def learning_rate(base: float, schedule: ScheduleConfig, step: int) -> float:
    """Learning rate of step ``step`` (0 is the first): warm-up, constant, quadratic decay.

    As in the reference program, the first step already counts as one of the warm-up, and a
    schedule with a decay holds the last rate it set between the phases and after them.
    """
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


class Sgd:
    """Stochastic gradient descent, dense and on touched rows alike."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def apply(self, parameter: Variable, gradient: Any, rate: float) -> None:
        """Move ``parameter`` against ``gradient`` by ``rate``, in place."""
        if hasattr(gradient, "descend"):
            gradient.descend(parameter.data, rate)
        else:
            self._backend.descend(parameter.data, gradient, rate)


OPTIMIZERS = {"sgd": Sgd}


def make_optimizer(name: str, backend: Backend) -> Sgd:
    """The optimiser called ``name``; raises ConfigError naming the known ones otherwise."""
    if name not in OPTIMIZERS:
        raise ConfigError(f"unknown optimizer {name!r}; known are {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name](backend)
