"""``--metrics``: the last numbers of a run as one flat JSON object, ready for MLflow and others."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from dlrmjit.errors import ConfigError
from dlrmjit.files import check_file_replaceable, replaced_file, try_destination
from dlrmjit.progress.memory import peak_rss_bytes
from dlrmjit.training.events import FitResult, NullObserver, StepRecord

_NAMES = {"train_loss", "steps", "samples", "seconds", "peak_rss_bytes"}


class MetricsFile(NullObserver):
    """Writes ``path`` when a run has ended; numbers that are undefined are left out.

    Raises ConfigError for a file that another program wrote.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        check(path)
        self._rates = array("d")

    def on_step(self, record: StepRecord) -> None:
        """Record the speed."""
        if record.seconds:
            self._rates.append(record.samples / record.seconds)

    def on_end(self, result: FitResult) -> None:
        """Write the file."""
        numbers = {
            "steps": result.steps,
            "samples": result.samples,
            "seconds": result.seconds,
            "train_loss": result.last_loss,
            "samples_per_s": median(self._rates) if self._rates else math.nan,
            "peak_rss_bytes": peak_rss_bytes(),
            "best_auc": result.best.auc,
            "best_accuracy": result.best.accuracy,
        }
        if result.test is not None:
            numbers |= {f"test_{name}": value for name, value in asdict(result.test).items()}
        write(self._path, {n: v for n, v in numbers.items() if math.isfinite(v)})


def check(path: str) -> None:
    """Raise ConfigError unless the file can be written."""
    try:
        check_file_replaceable(Path(path), _is_ours)
        try_destination(Path(path))
    except (ConfigError, OSError) as error:
        raise ConfigError(f"--metrics: {error}") from None


def write(path: Path, numbers: Mapping[str, Any]) -> None:
    """Write the numbers; raises ConfigError if that fails."""
    try:
        with replaced_file(path, _is_ours) as file:
            file.write((json.dumps(numbers, indent=1) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"--metrics: {path}: {error.strerror or error}") from None


def _is_ours(path: Path) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.keys() >= _NAMES - {"train_loss"}
