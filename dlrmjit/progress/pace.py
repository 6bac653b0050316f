"""How a run goes: its speed, its loss, its last test, the time that is left, its memory."""

from __future__ import annotations

import time
from collections.abc import Callable

from dlrmjit.config.training import TrainConfig
from dlrmjit.progress.memory import rss_bytes
from dlrmjit.training.events import Position, StepRecord

_WEIGHT = 0.1  # of the newest step in a running mean


class Pace:
    """Running means of a run that begins at ``start``."""

    def __init__(self, start: Position, now: Callable[[], float] = time.monotonic) -> None:
        self._start, self._now = start, now
        self.total = self.done = self._first = 0
        self.loss = self.auc = float("nan")
        self._samples = self._seconds = 0.0
        self._began = now()

    def begin(self, batches: int, config: TrainConfig) -> None:
        """Record the length of the run."""
        self.total = config.epochs * batches
        self.done = self._first = self._start.epoch * batches + self._start.batch
        self._began = self._now()

    def add(self, record: StepRecord) -> None:
        """Record a step."""
        self._samples = _mean(self._samples, record.samples)
        self._seconds = _mean(self._seconds, record.seconds)
        self.loss = record.loss if self.loss != self.loss else _mean(self.loss, record.loss)
        self.done = record.epoch * record.batches + record.batch + 1

    @property
    def rate(self) -> float:
        """Samples per second: those of the last steps over the time of all of these."""
        return self._samples / self._seconds if self._seconds else 0.0

    def left(self) -> float | None:
        """Return the seconds that are left, tests and reading included; None before a step."""
        steps = self.done - self._first
        if steps <= 0:
            return None
        return (self._now() - self._began) * (self.total - self.done) / steps

    def values(self) -> str:
        """Return speed, loss, AUC of the last test if there is one, and memory."""
        auc = "" if self.auc != self.auc else f", AUC {self.auc:.4f}"
        memory = f"{rss_bytes() / 2**20:,.0f} MiB"
        return f"{self.rate:,.0f} samples/s, loss {self.loss:.4f}{auc}, {memory}"


def clock(seconds: float | None) -> str:
    """Return seconds as ``h:mm:ss``."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _mean(old: float, new: float) -> float:
    return (1 - _WEIGHT) * old + _WEIGHT * new
