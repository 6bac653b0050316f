"""Keeping a model while it trains, and going on from one that was kept.

What is kept beside the parameters goes by the reference's names (``epoch`` and ``iter`` are the
epoch and the batches done in it), so either program goes on from a ``.pt`` of the other.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from dlrmjit.training import persistence
from dlrmjit.checkpoint import check_destination, check_torch_destination
from dlrmjit.cli.build.data import Data
from dlrmjit.config.training import TrainConfig
from dlrmjit.errors import CheckpointError, ConfigError
from dlrmjit.training.fit import Best, FitResult, NullObserver, Position, StepRecord, TestRecord
from dlrmjit.metrics import Metrics
from dlrmjit.model.dlrm import DLRM
from dlrmjit.optim import Optimizer, Plateau


@dataclass(frozen=True)
class Restored:
    """Where a kept run stood, its best results, and how far its learning rate was reduced."""

    position: Position = field(default_factory=Position)
    best: Best = field(default_factory=Best)
    plateau: Plateau = field(default_factory=Plateau)


def check_save_path(path: str) -> None:
    """Refuse, before hours of training, a path at which nothing could be saved.

    Raises ConfigError for a folder that does not exist, CheckpointError for one that holds
    something else than a checkpoint.
    """
    parent = Path(path).absolute().parent
    if not parent.is_dir():
        raise ConfigError(f"--save-model: the folder {parent} does not exist; create it")
    if Path(path).suffix == persistence.TORCH_SUFFIX:
        check_torch_destination(path)
    else:
        check_destination(path)


def restore(model: DLRM, path: str, batches: int) -> Restored:
    """Load the parameters kept at ``path`` into ``model``, and say what was kept with them.

    ``batches`` are those of an epoch now: a run that stood at their end goes on with the next
    epoch. Raises CheckpointError when there is no checkpoint, or not one of this model.
    """
    print(f"Loading saved model {path}", flush=True)
    progress = persistence.restore(model, path)
    _print_progress(progress)
    return Restored(_position(progress, batches), _best(progress), _plateau(progress))


def restore_optimizer(optimizer: Optimizer, model: DLRM, path: str, *, strict: bool) -> None:
    """Load what the optimiser remembered at ``path``.

    Going on with a run (``strict``) needs it; otherwise, where another optimiser was used, this
    one starts anew with a note.
    """
    try:
        persistence.restore_optimizer(optimizer, model, path)
    except CheckpointError as error:
        if strict:
            raise
        print(f"dlrmjit: note: the optimizer starts anew: {error}", file=sys.stderr)


def _position(progress: Mapping[str, Any], batches: int) -> Position:
    epoch, batch = int(progress.get("epoch", 0)), int(progress.get("iter", 0))
    step = int(progress.get("step", epoch * int(progress.get("nbatches", batches)) + batch))
    return Position(epoch + 1, 0, step) if batch >= batches else Position(epoch, batch, step)


def _best(progress: Mapping[str, Any]) -> Best:
    """The best results, which the reference keeps as those of the test that it saved after."""
    accuracy = progress.get("best_accuracy", progress.get("test_acc", 0.0))
    auc = progress.get("best_auc", progress.get("test_auc", 0.0))
    return Best(float(accuracy), float(auc))


def _plateau(progress: Mapping[str, Any]) -> Plateau:
    """What was noted of tests that did not improve."""
    kept = progress.get("plateau")
    return Plateau(*kept) if kept else Plateau()


def _print_progress(progress: Mapping[str, Any]) -> None:
    """Print the reference's lines about a loaded model, as far as the file says."""
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
    """Saves the model to ``path`` after every test that improves, or at the end without tests."""

    def __init__(
        self,
        path: str,
        model: DLRM,
        data: Data,
        config: TrainConfig,
        optimizer: Optimizer | None = None,
    ) -> None:
        self._path, self._model, self._optimizer = path, model, optimizer
        self._reduces = config.plateau is not None
        self._lengths = {
            "nepochs": config.epochs,
            "nbatches": data.train.num_batches,
            "nbatches_test": data.test.num_batches,
        }
        self._last: StepRecord | None = None
        self._has_tested = False

    def on_step(self, record: StepRecord) -> None:
        """Remember where training is."""
        self._last = record

    def on_test(self, record: TestRecord) -> None:
        """Save when the model has become better."""
        self._has_tested = True
        if record.improved:
            noted = astuple(record.plateau) if self._reduces else None
            kept = {"plateau": list(noted)} if noted else {}
            self._save({**_test_results(record.metrics, record.best), **kept})

    def on_end(self, result: FitResult) -> None:
        """Save what no test has judged."""
        if not self._has_tested:
            self._save({"test_acc": 0.0})

    def _save(self, results: Mapping[str, Any]) -> None:
        if self._last is None:
            return
        print(f"Saving model to {self._path}", flush=True)
        at = {
            "epoch": self._last.epoch,
            "iter": self._last.batch + 1,
            "step": self._last.step,
            "train_loss": self._last.loss,
            "total_loss": 0.0,
            "learning_rate": self._last.learning_rate,
        }
        progress = {**self._lengths, **at, **results}
        persistence.save(self._model, self._path, progress=progress, optimizer=self._optimizer)


def _test_results(metrics: Metrics, best: Best) -> dict[str, float]:
    results = {
        "test_acc": metrics.accuracy,
        "test_auc": metrics.auc,
        "best_accuracy": best.accuracy,
        "best_auc": best.auc,
    }
    return {name: value for name, value in results.items() if math.isfinite(value)}
