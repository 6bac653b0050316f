"""A line a minute about a run, where there is no terminal for a bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from dlrmjit.config.training import TrainConfig
from dlrmjit.model.model import Model
from dlrmjit.progress.pace import Pace, clock
from dlrmjit.training.fit import NullObserver, Position, StepRecord, TestRecord

_EVERY = 60.0  # seconds between two lines


class ProgressLines(NullObserver):
    """Prints a line a minute on the standard error, where there is no terminal for a bar."""

    def __init__(self, start: Position, now: Callable[[], float] = time.monotonic) -> None:
        self._pace, self._now, self._shown = Pace(start, now), now, now()

    def on_start(self, model: Model, batches: int, config: TrainConfig) -> None:
        """Record the length of the run."""
        self._pace.begin(batches, config)

    def on_step(self, record: StepRecord) -> None:
        """Print, if a minute has passed since the last line."""
        self._pace.add(record)
        if self._now() - self._shown >= _EVERY:
            self._shown = self._now()
            print(f"dlrmjit: {self._line()}", file=sys.stderr, flush=True)

    def on_test(self, record: TestRecord) -> None:
        """Record the AUC."""
        self._pace.auc = record.metrics.auc

    def _line(self) -> str:
        pace = self._pace
        share = 100 * pace.done / max(pace.total, 1)
        return (
            f"{pace.done:,} of {pace.total:,} batches ({share:.0f} %), {pace.values()}, "
            f"{clock(pace.left())} left"
        )
