"""Saving checkpoints during training, and resuming from one.

The progress saved with the parameters has the reference's names (``epoch`` and ``iter`` are the
epoch and the batches done in it), so either program resumes from a ``.pt`` of the other.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from dlrmjit.checkpoint import check_destination, check_torch_destination
from dlrmjit.cli.build.data import Data
from dlrmjit.config.training import TrainConfig
from dlrmjit.errors import CheckpointError, ConfigError
from dlrmjit.metrics import Metrics
from dlrmjit.model.model import Model
from dlrmjit.optim import Optimizer, Plateau
from dlrmjit.training import persistence
from dlrmjit.training.fit import Best, FitResult, NullObserver, Position, StepRecord, TestRecord
from dlrmjit.training.saved_architecture import is_torch


@dataclass(frozen=True)
class Restored:
    """Progress of a checkpointed run: position, best results, reductions of the learning rate."""

    position: Position = field(default_factory=Position)
    best: Best = field(default_factory=Best)
    plateau: Plateau = field(default_factory=Plateau)


def check_save_path(path: str) -> None:
    """Refuse a path at which nothing can be saved, before hours of training.

    Raises ConfigError for a folder that does not exist, CheckpointError for a path that holds
    anything but a checkpoint.
    """
    parent = Path(path).absolute().parent
    if not parent.is_dir():
        raise ConfigError(f"--save-model: the folder {parent} does not exist; create it")
    if is_torch(path):
        check_torch_destination(path)
    else:
        check_destination(path)


def restore(model: Model, path: str, batches: int) -> Restored:
    """Load the parameters at ``path`` into ``model``, and return the progress saved with them.

    ``batches`` is the number of batches of an epoch in this run: a run saved after the last of
    them continues with the next epoch. Raises CheckpointError when there is no checkpoint, or
    only one of another model.
    """
    print(f"Loading saved model {path}", flush=True)
    progress = persistence.restore(model, path)
    _print_progress(progress)
    return Restored(_position(progress, batches), _best(progress), _plateau(progress))


def restore_optimizer(optimizer: Optimizer, model: Model, path: str, *, strict: bool) -> None:
    """Load the optimiser state at ``path``.

    Resuming a run (``strict``) requires it and raises CheckpointError without it; otherwise the
    optimiser starts from its initial state, with a note.
    """
    try:
        persistence.restore_optimizer(optimizer, model, path)
    except CheckpointError as error:
        if strict:
            raise
        print(f"dlrmjit: note: the optimiser state is not restored: {error}", file=sys.stderr)


def _position(progress: Mapping[str, Any], batches: int) -> Position:
    epoch, batch = int(progress.get("epoch", 0)), int(progress.get("iter", 0))
    step = int(progress.get("step", epoch * int(progress.get("nbatches", batches)) + batch))
    return Position(epoch + 1, 0, step) if batch >= batches else Position(epoch, batch, step)


def _best(progress: Mapping[str, Any]) -> Best:
    """Return the best results; the reference has them only as those of its last saved test."""
    accuracy = progress.get("best_accuracy", progress.get("test_acc", 0.0))
    auc = progress.get("best_auc", progress.get("test_auc", 0.0))
    return Best(float(accuracy), float(auc), float(progress.get("best_logloss", math.inf)))


def _plateau(progress: Mapping[str, Any]) -> Plateau:
    """Return the count of tests without improvement."""
    saved = progress.get("plateau")
    return Plateau(*saved) if saved else Plateau()


def _print_progress(progress: Mapping[str, Any]) -> None:
    """Print the reference's lines about a loaded model, those whose values the file has."""
    if {"epoch", "nepochs", "iter", "nbatches", "nbatches_test"} <= set(progress):
        print(
            "Saved at: epoch = {epoch}/{nepochs}, batch = {iter}/{nbatches}, "
            "ntbatch = {nbatches_test}".format_map(progress)
        )
    if "train_loss" in progress:
        print(f"Training state: loss = {progress['train_loss']:.6f}")
    if "test_acc" in progress:
        auc = f", auc = {progress['test_auc']:.3f}" if "test_auc" in progress else ""
        print(f"Testing state: accuracy = {progress['test_acc'] * 100:3.3f} %{auc}", flush=True)


class Checkpointer(NullObserver):
    """Saves a checkpoint at ``path`` after every test that improves; without tests, at the end."""

    def __init__(
        self,
        path: str,
        model: Model,
        data: Data,
        config: TrainConfig,
        optimizer: Optimizer | None = None,
    ) -> None:
        self._path, self._model, self._optimizer = path, model, optimizer
        self._reduces = config.plateau is not None
        self._monitors_logloss = config.monitor == "logloss"
        self._lengths = {
            "nepochs": config.epochs,
            "nbatches": data.train.num_batches,
            "nbatches_test": data.test.num_batches,
        }
        self._last: StepRecord | None = None
        self._has_tested = False

    def on_step(self, record: StepRecord) -> None:
        """Record the position of training."""
        self._last = record

    def on_test(self, record: TestRecord) -> None:
        """Save if the test improved."""
        self._has_tested = True
        if record.improved:
            plateau = {"plateau": list(astuple(record.plateau))} if self._reduces else {}
            results = _test_results(record.metrics, record.best)
            if self._monitors_logloss:
                results["best_logloss"] = record.best.logloss
            self._save({**results, **plateau})

    def on_end(self, result: FitResult) -> None:
        """Save the final model of a run without tests."""
        if not self._has_tested:
            self._save({"test_acc": 0.0})

    def _save(self, results: Mapping[str, Any]) -> None:
        if self._last is None:
            return
        print(f"Saving model to {self._path}", flush=True)
        position = {
            "epoch": self._last.epoch,
            "iter": self._last.batch + 1,
            "step": self._last.step,
            "train_loss": self._last.loss,
            "total_loss": 0.0,
            "learning_rate": self._last.learning_rate,
        }
        progress = {**self._lengths, **position, **results}
        persistence.save(self._model, self._path, progress=progress, optimizer=self._optimizer)


def _test_results(metrics: Metrics, best: Best) -> dict[str, float]:
    results = {
        "test_acc": metrics.accuracy,
        "test_auc": metrics.auc,
        "best_accuracy": best.accuracy,
        "best_auc": best.auc,
    }
    return {name: value for name, value in results.items() if math.isfinite(value)}
