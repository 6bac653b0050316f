"""The lines on the standard output that scripts written for the reference program parse."""

from __future__ import annotations

import sys
import time

from dlrmjit.config.training import TrainConfig
from dlrmjit.metrics import Metrics
from dlrmjit.model.model import Model
from dlrmjit.training.fit import Best, FitResult, NullObserver, StepRecord, TestRecord

_SHOWN_SKIPS = 5


class ConsoleLines(NullObserver):
    """Prints the mean loss of every ``every`` steps, and the result of every test.

    With ``is_testing`` a test ends an interval as well. Without ``with_time`` the time per
    iteration is shown as -1.00, as in the reference.
    """

    def __init__(
        self,
        every: int,
        *,
        is_testing: bool = False,
        with_time: bool = False,
        with_clock: bool = False,
        with_mlperf: bool = False,
    ) -> None:
        self._every, self._is_testing = every, is_testing
        self._with_time, self._with_clock = with_time, with_clock
        self._with_mlperf = with_mlperf
        self._config = TrainConfig()
        self._interval, self._skipped = _Interval(), 0

    def on_start(self, model: Model, batches: int, config: TrainConfig) -> None:
        """Record the number of steps between tests."""
        self._config = config

    def on_step(self, record: StepRecord) -> None:
        """Print when an interval ends."""
        self._interval.add(record)
        if self._is_due(record):
            print(self._step_line(record), flush=True)
            self._interval = _Interval()

    def on_test(self, record: TestRecord) -> None:
        """Print the result of a test."""
        print(f"Testing at - {record.batch + 1}/{record.batches} of epoch {record.epoch},")
        self.print_metrics(record.metrics, record.best)

    def print_metrics(self, metrics: Metrics, best: Best) -> None:
        """Print one line of test results."""
        line = mlperf_line(metrics, best) if self._with_mlperf else accuracy_line(metrics, best)
        print(line, flush=True)

    def on_skip(self, step: int, cause: str) -> None:
        """Report the first batches that are skipped; the summary has their number."""
        self._skipped += 1
        if self._skipped <= _SHOWN_SKIPS:
            print(f"dlrmjit: note: skipped {cause}", file=sys.stderr)

    def on_end(self, result: FitResult) -> None:
        """Print which threshold ended the run, if one did."""
        if not result.reached_threshold or result.test is None:
            return
        by_accuracy = 0 < self._config.accuracy_threshold <= result.test.accuracy
        name = "accuracy" if by_accuracy else "auc"
        value = self._config.accuracy_threshold if by_accuracy else self._config.auc_threshold
        print(f"MLPerf testing {name} threshold {value} reached, stop training", flush=True)

    def _is_due(self, record: StepRecord) -> bool:
        done, test_every = record.batch + 1, self._config.test_every
        if done % self._every == 0 or record.is_last_of_epoch:
            return True
        return self._is_testing and test_every > 0 and done % test_every == 0

    def _step_line(self, record: StepRecord) -> str:
        ms = self._interval.milliseconds if self._with_time else -1.0
        clock = time.strftime(" (%H:%M)") if self._with_clock else ""
        return (
            f"Finished training it {record.batch + 1}/{record.batches} of epoch {record.epoch}, "
            f"{ms:.2f} ms/it, loss {self._interval.loss:.6f}{clock}"
        )


class _Interval:
    """The steps since the last line."""

    def __init__(self) -> None:
        self._steps, self._samples = 0, 0
        self._seconds, self._loss = 0.0, 0.0

    def add(self, record: StepRecord) -> None:
        self._steps += 1
        self._samples += record.samples
        self._seconds += record.seconds
        self._loss += record.loss * record.samples

    @property
    def milliseconds(self) -> float:
        return 1000.0 * self._seconds / self._steps

    @property
    def loss(self) -> float:
        """The mean loss over the samples."""
        return self._loss / self._samples


def accuracy_line(metrics: Metrics, best: Best) -> str:
    """Return the line of a test without ``--mlperf-logging``."""
    return f" accuracy {metrics.accuracy * 100:3.3f} %, best {best.accuracy * 100:3.3f} %"


def mlperf_line(metrics: Metrics, best: Best) -> str:
    """Return the line of a test with ``--mlperf-logging``."""
    return (
        f"recall {metrics.recall:.4f}, precision {metrics.precision:.4f}, "
        f"f1 {metrics.f1:.4f}, ap {metrics.average_precision:.4f}, "
        f"auc {metrics.auc:.4f}, best auc {best.auc:.4f}, "
        f"accuracy {metrics.accuracy * 100:3.3f} %, best accuracy {best.accuracy * 100:3.3f} %"
    )
