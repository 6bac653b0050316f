"""``--prometheus``: how a run does, in a file for the textfile collector of Prometheus' exporter.

The file is replaced as a whole every few seconds and after every test, so that a collector never
reads half of it. It outlives the run: an alert on ``dlrmjit_train_updated_seconds`` notices one
that hangs or was killed.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

from dlrmjit.config.training import TrainConfig
from dlrmjit.errors import ConfigError
from dlrmjit.files import check_file_replaceable, replaced_file, try_destination
from dlrmjit.model.model import Model
from dlrmjit.progress.memory import rss_bytes
from dlrmjit.training.events import FitResult, NullObserver, StepRecord, TestRecord

EVERY = 10.0  # seconds between two files
_PREFIX = "dlrmjit_"
_FIRST_LINE = f"# HELP {_PREFIX}train_steps_total"


class _Metric(NamedTuple):
    name: str
    kind: str
    text: str


_METRICS = (
    _Metric("train_steps_total", "counter", "Steps of the run, those before a resume included."),
    _Metric("train_samples_total", "counter", "Samples trained on since the process started."),
    _Metric("train_seconds_total", "counter", "Seconds in steps since the process started."),
    _Metric("train_loss", "gauge", "Loss of the last step."),
    _Metric("train_learning_rate", "gauge", "Learning rate of the last step."),
    _Metric("train_epoch", "gauge", "Epoch of the last step, counted from 0."),
    _Metric("train_skipped_total", "counter", "Batches left out as their loss was not finite."),
    _Metric("test_auc", "gauge", "AUC of the last test."),
    _Metric("test_log_loss", "gauge", "Log loss of the last test."),
    _Metric("test_best_auc", "gauge", "Best AUC of the tests so far."),
    _Metric("resident_memory_bytes", "gauge", "Memory of the process that writes this file."),
    _Metric("train_updated_seconds", "gauge", "When the file was written, as a Unix time."),
    _Metric("train_finished", "gauge", "1 when the run has ended by itself, else 0."),
)


class PrometheusFile(NullObserver):
    """Writes ``path`` at the start, every ten seconds, after tests and at the end.

    Values that are undefined, such as the AUC before a test, are left out. A file that cannot be
    written during the run is noted once and does not end it.

    Raises ConfigError for a path that :func:`check` refuses.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        check(path)
        self._values: dict[str, float] = {"train_finished": 0}
        self._written = -math.inf
        self._failed = False

    def on_start(self, model: Model, batches: int, config: TrainConfig) -> None:
        """Write the file, with no steps yet."""
        self._values |= {"train_samples_total": 0, "train_seconds_total": 0}
        self._write()

    def on_step(self, record: StepRecord) -> None:
        """Record the step, and write the file if the last one is old."""
        values = self._values
        values["train_steps_total"] = record.step
        values["train_samples_total"] += record.samples
        values["train_seconds_total"] += record.seconds
        values["train_loss"], values["train_epoch"] = record.loss, record.epoch
        values["train_learning_rate"] = record.learning_rate
        if time.monotonic() - self._written >= EVERY:
            self._write()

    def on_skip(self, step: int, cause: str) -> None:
        """Count a batch that was left out."""
        self._values["train_skipped_total"] = self._values.get("train_skipped_total", 0) + 1

    def on_test(self, record: TestRecord) -> None:
        """Record the test and write the file."""
        self._values["test_auc"] = record.metrics.auc
        self._values["test_log_loss"] = record.metrics.logloss
        self._values["test_best_auc"] = record.best.auc
        self._write()

    def on_end(self, result: FitResult) -> None:
        """Write the file of a run that has ended."""
        self._values["train_finished"] = 1
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        current = {"resident_memory_bytes": rss_bytes(), "train_updated_seconds": time.time()}
        try:
            with replaced_file(self._path, _is_ours) as file:
                file.write(text(self._values | current).encode())
        except (OSError, ConfigError) as error:
            if not self._failed:
                self._failed = True
                print(f"dlrmjit: note: --prometheus: {self._path}: {error}", file=sys.stderr)


def text(values: dict[str, float]) -> str:
    """Return the finite values in Prometheus' text format; steps are there from the start."""
    values = {"train_steps_total": 0} | values
    lines = []
    for name, kind, meaning in _METRICS:
        if math.isfinite(value := values.get(name, math.nan)):
            full = _PREFIX + name
            lines += [f"# HELP {full} {meaning}", f"# TYPE {full} {kind}", f"{full} {value!r}"]
    return "\n".join(lines) + "\n"


def check(path: str) -> None:
    """Raise ConfigError unless the file can be written, and a collector would read it."""
    if not path.endswith(".prom"):
        raise ConfigError(f"--prometheus: collectors read files that end in .prom, not {path!r}")
    try:
        check_file_replaceable(Path(path), _is_ours)
        try_destination(Path(path))
    except (ConfigError, OSError) as error:
        raise ConfigError(f"--prometheus: {error}") from None


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_FIRST_LINE)) == _FIRST_LINE.encode()
    except OSError:
        return False
