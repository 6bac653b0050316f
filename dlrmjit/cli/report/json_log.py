"""``--log-json``: one JSON object per line for every step and test, for programs to read."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from dlrmjit.config.training import TrainConfig
from dlrmjit.errors import ConfigError
from dlrmjit.files import open_log
from dlrmjit.metrics import Metrics
from dlrmjit.model.model import Model
from dlrmjit.parallel.comm import Comm
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.progress.memory import peak_rss_bytes
from dlrmjit.training.fit import FitResult, NullObserver, StepRecord, TestRecord
from dlrmjit.version import __version__

_LONGEST_LINE = 1 << 24  # bytes of the first line, which has all options


class JsonLog(NullObserver):
    """Writes JSON Lines to ``path``, each flushed at once; a context manager that closes it.

    Numbers that are undefined (an AUC of one class) are null. Raises ConfigError when the
    file cannot be written.
    """

    def __init__(self, path: str, *, append: bool = False) -> None:
        self._path = path
        self._comm: Comm | None = None
        try:
            self._file: IO[bytes] | None = open_log(Path(path), is_json_log, append=append)
        except OSError as error:
            raise _cannot_write(path, error) from error

    def __enter__(self) -> JsonLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def write(self, event: str, fields: Mapping[str, Any]) -> None:
        """Write one line."""
        line = {"event": event, **{name: _jsonable(value) for name, value in fields.items()}}
        if self._file is None:
            return
        try:
            self._file.write(f"{json.dumps(line, allow_nan=False)}\n".encode())
            self._file.flush()
        except OSError as error:  # a full disk or a reader that went away must not stop the run
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        file, self._file = self._file, None
        print(f"dlrmjit: note: {_cannot_write(self._path, error)}; the log ends", file=sys.stderr)
        with suppress(OSError):
            file.close()  # type: ignore[union-attr]

    def start(self, config: Mapping[str, Any], machine: Mapping[str, Any]) -> None:
        """Write the first line: the configuration and the machine."""
        self.write(
            "start",
            {"version": __version__, "time": time.time(), "config": config, "machine": machine},
        )

    def on_start(self, model: Model, batches: int, config: TrainConfig) -> None:
        """Record who counts what this rank sends."""
        self._comm = model.comm if isinstance(model, ShardedModel) else None

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

    def on_skip(self, step: int, cause: str) -> None:
        """Write why a batch was skipped."""
        self.write("skip", {"step": step, "cause": cause})

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
                **({"sent_bytes": self._comm.traffic.sent} if self._comm else {}),
            },
        )


def is_json_log(path: Path) -> bool:
    """Return whether a file begins as a log that :class:`JsonLog` wrote."""
    try:
        with open(path, "rb") as file:
            first = json.loads(file.readline(_LONGEST_LINE))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and first.get("event") == "start" and "version" in first


def _cannot_write(path: str, error: OSError) -> ConfigError:
    return ConfigError(f"--log-json: {path} cannot be written: {error.strerror or error}")


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
