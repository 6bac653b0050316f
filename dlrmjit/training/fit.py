"""The loops around a training step: epochs, tests and thresholds, with events for observers.

``fit`` prints nothing and writes nothing. Observers do: the console lines of the command line, its
progress bar, the JSON log and the checkpoints are one observer each.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dlrmjit.config.training import TrainConfig
from dlrmjit.data.batch import Batch
from dlrmjit.data.source import Source, has_soft_labels
from dlrmjit.data.validate import check_labels
from dlrmjit.errors import ConfigError
from dlrmjit.launchers import NONE, launched
from dlrmjit.metrics import Metrics, compute_metrics
from dlrmjit.model.model import Model
from dlrmjit.optim import Plateau, learning_rate
from dlrmjit.perf.profile import Profile
from dlrmjit.training.best_weights import BestWeights
from dlrmjit.training.preprocessing import adopt_preprocessing, check_preprocessing
from dlrmjit.training.step import TrainingStep


@dataclass(frozen=True)
class Position:
    """Progress of training: the next batch to train on, and the steps taken so far."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


@dataclass(frozen=True)
class StepRecord:
    """One training step: ``batch`` of ``batches`` in ``epoch``; ``step`` counts from the start.

    ``loss`` is the mean over the batch, ``lookups`` the number of indices of all its bags, and
    ``seconds`` the time of the step without loading its data.
    """

    step: int
    epoch: int
    batch: int
    batches: int
    samples: int
    loss: float
    learning_rate: float
    seconds: float
    lookups: int = 0

    @property
    def is_last_of_epoch(self) -> bool:
        """Whether the epoch ends with this step."""
        return self.batch + 1 == self.batches


@dataclass(frozen=True)
class Best:
    """The best test results of a run so far."""

    accuracy: float = 0.0
    auc: float = 0.0
    logloss: float = math.inf


@dataclass(frozen=True)
class TestRecord:
    """One test after ``step`` steps.

    ``best`` includes this test. ``improved`` says whether it is better than all before, as
    ``TrainConfig.monitor`` says. ``position`` is where training would resume, and ``plateau``
    how tests have changed the learning rate.
    """

    __test__ = False  # pytest must not collect it

    step: int
    epoch: int
    batch: int
    batches: int
    metrics: Metrics
    best: Best
    improved: bool
    position: Position
    seconds: float
    plateau: Plateau = field(default_factory=Plateau)


@dataclass
class FitResult:
    """Summary of a run: steps taken, samples seen, the last and the best tests, why it ended.

    ``restored_step`` is the step whose parameters the model has, if those of the best test were
    restored; ``test`` is that test then.
    """

    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    last_loss: float = float("nan")
    position: Position = field(default_factory=Position)
    test: Metrics | None = None
    best: Best = field(default_factory=Best)
    restored_step: int | None = None
    reached_threshold: bool = False
    stopped_early: bool = False

    @property
    def is_over(self) -> bool:
        """Whether a test ended the run before its last epoch."""
        return self.reached_threshold or self.stopped_early


StepFunction = Callable[[Any, float], float]


@runtime_checkable
class AccumulatingStep(Protocol):
    """A training step that can also leave the update to a later batch."""

    def __call__(self, batch: Any, rate: float) -> float:
        """Train on a batch and on those accumulated before; return its loss."""

    def accumulate(self, batch: Any) -> float:
        """Add the gradients of a batch to those of the next update; return its loss."""


class MeasureFunction(Protocol):
    """A function that evaluates a model on a source."""

    def __call__(self, model: Any, source: Any, *, threshold: float) -> Metrics:
        """Return the metrics, as :func:`evaluate` does."""


class Observer(Protocol):
    """Receives the events of a run; each method may do nothing."""

    def on_start(self, model: Model, batches: int, config: TrainConfig) -> None:
        """Called before the first step of a run."""

    def on_step(self, record: StepRecord) -> None:
        """Called after every training step."""

    def on_test(self, record: TestRecord) -> None:
        """Called after every test."""

    def on_end(self, result: FitResult) -> None:
        """Called after the last step, or when a threshold is reached; not after an exception."""


class NullObserver:
    """An observer that does nothing: a base class for those that need only some events."""

    def on_start(self, model: Model, batches: int, config: TrainConfig) -> None:
        """Ignore the start."""

    def on_step(self, record: StepRecord) -> None:
        """Ignore a step."""

    def on_test(self, record: TestRecord) -> None:
        """Ignore a test."""

    def on_end(self, result: FitResult) -> None:
        """Ignore the end."""


def fit(
    model: Model,
    train: Source,
    config: TrainConfig | None = None,
    *,
    test: Source | None = None,
    observers: Sequence[Observer] = (),
    start: Position = Position(),
    best: Best = Best(),
    plateau: Plateau | None = None,
    profile: Profile | None = None,
    step: StepFunction | None = None,
    measure: MeasureFunction | None = None,
) -> FitResult:
    """Train ``model`` on ``train`` in place.

    Parameters
    ----------
    model : the model; its parameters change
    train, test : sources of batches; the test set is evaluated every ``config.test_every``
        steps and after the last step of each epoch
    observers : receive every step and test, in this order
    start, best, plateau : where an interrupted run stopped, its best results, and how tests had
        changed its learning rate, to continue from there
    profile : collects the time of every operation
    step : trains on one batch of ``train`` with a learning rate and returns the loss; by default
        a :class:`TrainingStep`. Must be an :class:`AccumulatingStep` for ``batches_per_update`` > 1
    measure : evaluates on ``test``; by default :func:`evaluate`

    Returns
    -------
    FitResult
        The summary, also if a threshold or ``early_stopping`` ended the run early.

    Raises
    ------
    DataError
        For a batch with a label that the loss does not allow, before the model changes: targets
        are 0 or 1, or probabilities for ``mse`` and where ``config.loss`` or ``train`` has
        ``soft_labels``.
    """
    config = config or TrainConfig()
    _warn_of_copies(model)
    step = step or TrainingStep(
        model, config.optimizer, config.loss, profile, first_step=start.step
    )
    if config.batches_per_update > 1 and not isinstance(step, AccumulatingStep):
        raise ConfigError("updates from several batches need one process and no --reproducible")
    if config.restore_best and test is None:
        raise ConfigError("restoring the best parameters needs tests; give a test set")
    adopt_preprocessing(model, train)
    run = _Run(model, train, config, test, observers, best, step, measure or evaluate)
    run.plateau = plateau or run.plateau
    return run.execute(start)


def _warn_of_copies(model: Model) -> None:
    """Warn, on the first rank, if every rank of a launcher trains a model of its own."""
    launch = launched()
    if launch and launch.rank == 0 and launch.size and getattr(model, "comm", None) is None:
        warnings.warn(
            f"{launch.launcher} started {launch.size} ranks, but this model has no communicator: "
            "every rank trains a copy on all batches; use dlrmjit.parallel's ShardedModel with "
            f"world(), or set {NONE} if that is meant",
            stacklevel=3,
        )


class _Run:
    """State of one call of :func:`fit`."""

    def __init__(
        self,
        model: Model,
        train: Source,
        config: TrainConfig,
        test: Source | None,
        observers: Sequence[Observer],
        best: Best,
        step: StepFunction,
        measure: MeasureFunction,
    ) -> None:
        self.model, self.train, self.config, self.test = model, train, config, test
        self.observers = observers
        self.training_step, self.measure = step, measure
        self.result = FitResult(best=best)
        self.plateau = Plateau()
        self._tests_since_best = 0
        self._best_weights: BestWeights | None = None
        self._best_step = 0
        self._best_test: Metrics | None = None
        loss = config.loss
        self._soft_labels = loss.kind == "mse" or loss.soft_labels or has_soft_labels(train)

    def execute(self, start: Position) -> FitResult:
        began = time.perf_counter()
        self.result.position = start
        if self.result.best != Best():  # the run continues from its best test
            self._save_best_weights()
        for observer in self.observers:
            observer.on_start(self.model, self.train.num_batches, self.config)
        for epoch in range(start.epoch, self.config.epochs):
            first = start.batch if epoch == start.epoch else 0
            self._run_epoch(epoch, first)
            if self.result.is_over:
                break
        if self._best_weights is not None:
            self._best_weights.restore(self.model)
            self.result.restored_step = self._best_step
            self.result.test = self._best_test or self.result.test
        self.result.seconds = time.perf_counter() - began
        for observer in self.observers:
            observer.on_end(self.result)
        return self.result

    def _run_epoch(self, epoch: int, first: int) -> None:
        for number, batch in enumerate(self.train.batches(epoch, first), first):
            record = self._train_on(batch, epoch, number)
            for observer in self.observers:
                observer.on_step(record)
            if self._is_test_due(record):
                self._run_test(record)
            if self.result.is_over:
                return

    def _train_on(self, batch: Batch, epoch: int, number: int) -> StepRecord:
        step = self.result.position.step
        where = f"epoch {epoch}, training batch {number}"
        check_labels(batch.labels, where, soft=self._soft_labels)
        per_update, batches = self.config.batches_per_update, self.train.num_batches
        is_last = number + 1 == batches
        rate = learning_rate(self.config.learning_rate, self.config.schedule, step // per_update)
        rate *= self.plateau.factor
        began = time.perf_counter()
        with self.model.backend.flush_denormals():
            if is_last or (number + 1) % per_update == 0:
                loss = self.training_step(batch, rate)
            else:
                loss = self._accumulate(batch)
        seconds = time.perf_counter() - began
        self.result.position = Position(
            epoch + 1 if is_last else epoch, 0 if is_last else number + 1, step + 1
        )
        self.result.steps += 1
        self.result.samples += batch.n
        self.result.step_seconds += seconds
        self.result.last_loss = loss
        return StepRecord(
            step=step + 1,
            epoch=epoch,
            batch=number,
            batches=batches,
            samples=batch.n,
            lookups=len(batch.indices),
            loss=loss,
            learning_rate=rate,
            seconds=seconds,
        )

    def _accumulate(self, batch: Batch) -> float:
        step = self.training_step
        assert isinstance(step, AccumulatingStep)  # fit refuses any other
        return step.accumulate(batch)

    def _save_best_weights(self) -> None:
        if not self.config.restore_best:
            return
        self._best_weights = self._best_weights or BestWeights()
        self._best_weights.save(self.model)
        self._best_step, self._best_test = self.result.position.step, self.result.test

    def _is_test_due(self, record: StepRecord) -> bool:
        if self.test is None:
            return False
        every = self.config.test_every
        return record.is_last_of_epoch or (every > 0 and (record.batch + 1) % every == 0)

    def _run_test(self, step: StepRecord) -> None:
        assert self.test is not None
        began = time.perf_counter()
        metrics = self.measure(self.model, self.test, threshold=self.config.loss.threshold)
        seconds = time.perf_counter() - began
        improved = self._update_best(metrics)
        self._update_early_stopping(improved)
        self._update_plateau(metrics)
        self.result.test = metrics
        if improved:
            self._save_best_weights()
        record = TestRecord(
            step=step.step,
            epoch=step.epoch,
            batch=step.batch,
            batches=step.batches,
            metrics=metrics,
            best=self.result.best,
            improved=improved,
            position=self.result.position,
            seconds=seconds,
            plateau=self.plateau,
        )
        for observer in self.observers:
            observer.on_test(record)

    def _update_early_stopping(self, improved: bool) -> None:
        """Count the tests since the best one; a resumed run starts counting at zero."""
        self._tests_since_best = 0 if improved else self._tests_since_best + 1
        self.result.stopped_early = 0 < self.config.early_stopping <= self._tests_since_best

    def _update_plateau(self, metrics: Metrics) -> None:
        if self.config.plateau is not None:
            monitored = self._monitored(metrics)
            metric = metrics.accuracy if math.isnan(monitored) else monitored
            self.plateau = self.plateau.after(metric, self.config.plateau)

    def _monitored(self, metrics: Metrics) -> float:
        """Return the metric that is monitored, larger if better; NaN if it is undefined."""
        return -metrics.logloss if self.config.monitor == "logloss" else metrics.auc

    def _update_best(self, metrics: Metrics) -> bool:
        best, config = self.result.best, self.config
        better_accuracy = metrics.accuracy > best.accuracy
        better_auc = metrics.auc > best.auc  # False if undefined (NaN), as the next one
        better_logloss = metrics.logloss < best.logloss
        if better_accuracy:
            best = replace(best, accuracy=metrics.accuracy)
        if better_auc:
            best = replace(best, auc=metrics.auc)
        if better_logloss:
            best = replace(best, logloss=metrics.logloss)
        self.result.best = best
        self.result.reached_threshold = (
            0 < config.accuracy_threshold <= metrics.accuracy
            or 0 < config.auc_threshold <= metrics.auc
        )
        if math.isnan(self._monitored(metrics)):
            return better_accuracy
        return better_logloss if config.monitor == "logloss" else better_auc


def evaluate(model: Model, source: Source, *, threshold: float = 0.0) -> Metrics:
    """Return the metrics of ``model`` on all batches of ``source``.

    ``threshold`` clamps the probabilities as :class:`~dlrmjit.config.training.LossConfig` says.
    Raises DataError for a label outside 0 to 1, or an unknown one.
    """
    check_preprocessing(model, source, "evaluation")
    scores: list[Any] = []
    targets: list[Any] = []
    for batch in source.batches():
        scores.append(model.predict_proba(batch, threshold=threshold))
        check_labels(batch.labels, f"test batch {len(targets)}", soft=True)
        targets.append(batch.labels)
    if not scores:
        return compute_metrics(np.empty(0, np.float32), np.empty(0, np.float32))
    return compute_metrics(np.concatenate(scores), np.concatenate(targets))
