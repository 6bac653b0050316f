"""``--log-json``: one JSON object per line for every step and test, for programs to read."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any

from dlrmjit.cli.report.machine import peak_rss_bytes
from dlrmjit.errors import ConfigError
from dlrmjit.metrics import Metrics
from dlrmjit.training.fit import FitResult, NullObserver, StepRecord, TestRecord
from dlrmjit.version import __version__


class JsonLog(NullObserver):
    """Writes JSON Lines to ``path``, each flushed at once; a context manager that closes it.

    Numbers that are undefined (an AUC of one class) are null. Raises ConfigError when the
    file cannot be written.
    """

    def __init__(self, path: str) -> None:
        try:
            self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise ConfigError(
                f"--log-json: {path} cannot be written: {error.strerror or error}"
            ) from error

    def __enter__(self) -> JsonLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, event: str, fields: Mapping[str, Any]) -> None:
        """Write one line."""
        line = {"event": event, **{name: _jsonable(value) for name, value in fields.items()}}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def start(self, config: Mapping[str, Any], machine: Mapping[str, Any]) -> None:
        """Write the first line: the configuration and the machine."""
        self.write(
            "start",
            {"version": __version__, "time": time.time(), "config": config, "machine": machine},
        )

    def on_step(self, record: StepRecord) -> None:
        """Write a training step; ``ms`` excludes the time to read its data."""
        self.write(
            "step",
            {
                "step": record.step,
                "epoch": record.epoch,
                "batch": record.batch,
                "ms": 1000.0 * record.seconds,
                "loss": record.loss,
                "lr": record.learning_rate,
                "samples": record.samples,
                "samples_per_s": record.samples / record.seconds if record.seconds else None,
            },
        )

    def on_test(self, record: TestRecord) -> None:
        """Write the result of a test."""
        extra = {
            "epoch": record.epoch,
            "best_accuracy": record.best.accuracy,
            "best_auc": record.best.auc,
        }
        self.evaluated(record.step, record.metrics, record.seconds, extra)

    def evaluated(
        self, step: int, metrics: Metrics, seconds: float, extra: Mapping[str, Any]
    ) -> None:
        """Write metrics after ``step`` steps."""
        self.write("eval", {"step": step, **asdict(metrics), "seconds": seconds, **extra})

    def on_end(self, result: FitResult) -> None:
        """Write the last line of a run that was not interrupted."""
        self.write(
            "end",
            {
                "steps": result.steps,
                "samples": result.samples,
                "seconds": result.seconds,
                "step_seconds": result.step_seconds,
                "loss": result.last_loss,
                "best_accuracy": result.best.accuracy,
                "best_auc": result.best.auc,
                "reached_threshold": result.reached_threshold,
                "peak_rss_bytes": peak_rss_bytes(),
            },
        )


def _jsonable(value: Any) -> Any:
    """Return ``value`` in JSON's types; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(name): _jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(item) for item in value]
    if isinstance(value, bool | str | None):
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
