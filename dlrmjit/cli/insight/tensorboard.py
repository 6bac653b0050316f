"""``--tensorboard``: scalars, calibration and norms for TensorBoard, without its own packages."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dlrmjit.errors import ConfigError
from dlrmjit.training.events import FitResult, NullObserver, StepRecord, TestRecord

_EVERY = 0.2  # seconds between two steps that are written
_METRICS = ("auc", "logloss", "accuracy", "average_precision")
_OURS = "events.out.tfevents."


class TensorBoard(NullObserver):
    """Writes event files to a folder that is new, empty, or has nothing but event files.

    Raises ConfigError for another folder, or without the package ``tensorboardX``.
    """

    def __init__(self, folder: str) -> None:
        check_folder(Path(folder))
        self._writer = _writer(folder)
        self._shown = 0.0

    def on_step(self, record: StepRecord) -> None:
        """Write loss, rate and speed, a few times a second."""
        if time.monotonic() - self._shown < _EVERY and not record.is_last_of_epoch:
            return
        self._shown = time.monotonic()
        self._add("train/loss", record.loss, record.step)
        self._add("train/learning_rate", record.learning_rate, record.step)
        if record.seconds:
            self._add("train/samples_per_s", record.samples / record.seconds, record.step)

    def on_test(self, record: TestRecord) -> None:
        """Write the metrics of a test."""
        for name in _METRICS:
            self._add(f"test/{name}", getattr(record.metrics, name), record.step)

    def write(self, event: str, fields: Mapping[str, Any]) -> None:
        """Write the details of a run that are numbers at a step."""
        if "step" in fields:
            for name, value in _scalars(event, fields):
                self._add(name, value, fields["step"])

    def on_end(self, result: FitResult) -> None:
        """Write everything to disk."""
        self._writer.close()

    def _add(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)


def check_folder(folder: Path) -> None:
    """Raise ConfigError unless event files may be written to a folder."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--tensorboard: {folder} is no folder")
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    others = [name for name in names if not name.startswith(_OURS)]
    if others:
        raise ConfigError(
            f"--tensorboard: {folder} has other files ({others[0]}); name a new folder"
        )
    load()


def load() -> Any:
    """Return the package that writes; raises ConfigError without it."""
    try:
        import tensorboardX
    except ImportError:
        raise ConfigError(
            "--tensorboard needs tensorboardX: pip install 'dlrmjit[tensorboard]'"
        ) from None
    return tensorboardX


def _writer(folder: str) -> Any:
    try:
        return load().SummaryWriter(folder)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"--tensorboard: {folder} cannot be written: {reason}") from None


def _scalars(event: str, fields: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    if event == "gradient":
        yield from ((f"gradient_norm/{part}", fields[part]) for part in ("mlp", "tables"))
    elif event == "norms":
        yield from ((f"norm/{name}", value) for name, value in fields["dense"].items())
        for number, value in enumerate(fields["tables"]):
            yield f"row_norm/table_{number}", value
    elif event == "calibration":
        for one in fields["bins"]:
            name = f"calibration/{one['low']:.2f}_to_{one['high']:.2f}"
            yield name, one["observed"] - one["predicted"]
    elif event == "memory":
        yield "memory/MiB", fields["rss_bytes"] / 2**20
