"""The loops around a training step: epochs, tests and thresholds, with events for observers.

``fit`` prints nothing and writes nothing. Observers do: the console lines of the command line, its
progress bar, the JSON log and the checkpoints are one observer each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from dlrmjit.config.list_loss import ListLoss
from dlrmjit.config.training import TrainConfig
from dlrmjit.data.batch import Batch
from dlrmjit.data.source import Source, check_has_pairs, has_soft_labels, stateful
from dlrmjit.data.validate import check_labels, check_relevance, check_sample_weights
from dlrmjit.errors import ConfigError, NonFiniteLossError, TrainingError
from dlrmjit.launchers import warn_of_copies
from dlrmjit.metrics import Metrics, RankingMetrics, compute_metrics
from dlrmjit.model.model import Model
from dlrmjit.optim import Plateau, learning_rate
from dlrmjit.perf.profile import Profile
from dlrmjit.ranking.metrics import metrics_of_sums
from dlrmjit.ranking.tested import TestedRows
from dlrmjit.training.agreement import check_distributed, refuse_distributed
from dlrmjit.training.best_weights import BestWeights
from dlrmjit.training.checkpointer import Checkpointer
from dlrmjit.training.events import (
    NO_TEST,
    START,
    Best,
    FitResult,
    Moment,
    NullObserver,
    Observer,
    Position,
    RunState,
    StepRecord,
    TestRecord,
    monitored,
)
from dlrmjit.training.nonfinite import cause_of, check_weights
from dlrmjit.training.preprocessing import adopt_preprocessing, check_preprocessing
from dlrmjit.training.step import TrainingStep

__all__ = [
    "AccumulatingStep",
    "Best",
    "FitResult",
    "MeasureFunction",
    "NullObserver",
    "Observer",
    "Position",
    "StepFunction",
    "StepRecord",
    "TestRecord",
    "evaluate",
    "fit",
]


StepFunction = Callable[[Any, float], float]
OnScores = Callable[[Any, Any], None]


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


def fit(
    model: Model,
    train: Source,
    config: TrainConfig | None = None,
    *,
    test: Source | None = None,
    observers: Sequence[Observer] = (),
    start: Position = START,
    best: Best = NO_TEST,
    plateau: Plateau | None = None,
    tests_since_best: int = 0,
    profile: Profile | None = None,
    step: StepFunction | None = None,
    measure: MeasureFunction | None = None,
    checkpointer: Checkpointer | None = None,
    resume: bool = False,
) -> FitResult:
    """Train ``model`` on ``train`` in place; return the summary, also of a run that ended early.

    Parameters
    ----------
    model : the model; its parameters change
    train, test : sources of batches; the test set is evaluated every ``config.test_every``
        steps and after the last step of each epoch
    observers : receive every step and test, in this order
    start, best, plateau, tests_since_best : position and results of tests of an interrupted run
    profile : collects the time of every operation
    step : trains on one batch of ``train`` with a learning rate and returns the loss; by default
        a :class:`TrainingStep`. Must be an :class:`AccumulatingStep` for ``batches_per_update`` > 1
    measure : evaluates on ``test``; by default :func:`evaluate`
    checkpointer : saves the run while it trains
    resume : continue from what ``checkpointer`` has saved, if anything, with the bits of a run
        that was not interrupted

    Raises
    ------
    DataError
        Before the model changes, for lists none of which has an order, or a label that the loss
        refuses: it is 0 or 1; with ``mse`` or ``soft_labels`` (of loss or data) a probability.
    TrainingError
        For a loss or parameter that is not finite, if ``config.on_nonfinite`` is ``stop``.
    ConcurrencyError
        If another thread is training the model, or uses it before this returns; observers may.
    CheckpointError
        If a checkpoint cannot be saved, or is of another model or optimizer.
    """
    config = config or TrainConfig()
    warn_of_copies(getattr(model, "comm", None), stacklevel=3)
    state = RunState(start, best, plateau or Plateau(), tests_since_best)
    _check_together(model, config, step, train, test)
    with model.access.owning():
        check_distributed(model, config, start, step, measure, (train, test))
        adopt_preprocessing(model, train)
        step = step or TrainingStep(
            model, config.optimizer, config.loss, profile, first_step=start.step
        )
        if resume:
            state = _resumed(model, train, step, checkpointer) or state
        run = _Run(model, train, config, test, observers, state, step, measure or evaluate)
        return run.execute(state.position) if checkpointer is None else run.saved_by(checkpointer)


def _check_together(
    model: Model, config: TrainConfig, step: StepFunction | None, train: Source, test: Source | None
) -> None:
    if config.restore_best:
        model.architecture.refuse_dynamic("restoring the best parameters")
    if model.architecture.dynamic is not None:
        model.architecture.dynamic.check_updates(config.batches_per_update)
    if config.batches_per_update > 1 and not isinstance(step, AccumulatingStep | None):
        raise ConfigError("updates from several batches need one process and no --reproducible")
    if config.restore_best and test is None:
        raise ConfigError("restoring the best parameters needs tests; give a test set")
    if isinstance(config.loss, ListLoss):
        check_has_pairs(train)


def _resumed(
    model: Model, train: Source, step: StepFunction, checkpointer: Checkpointer | None
) -> RunState | None:
    """Load model and optimizer from the newest checkpoint; return None if there is none."""
    if checkpointer is None:
        raise ConfigError("resume=True needs a checkpointer, which says where the run was saved")
    if getattr(step, "optimizer", None) is None:
        raise ConfigError("resume=True needs a step with an optimizer, whose state is restored")
    state = checkpointer.restore_model(model, train)
    check_preprocessing(model, train, "training")
    checkpointer.restore_optimizer(model, step)
    start_at = getattr(step, "start_at", None)
    if state is not None and start_at is not None:
        start_at(state.position.step)
    return state


class _Run:
    """State of one call of :func:`fit`."""

    def __init__(
        self,
        model: Model,
        train: Source,
        config: TrainConfig,
        test: Source | None,
        observers: Sequence[Observer],
        state: RunState,
        step: StepFunction,
        measure: MeasureFunction,
    ) -> None:
        self.model, self.train, self.config, self.test = model, train, config, test
        self.observers, self.training_step, self.measure = observers, step, measure
        self.result = FitResult(best=state.best)
        self.plateau, self._start = state.plateau, state.position
        self._tests_since_best = state.tests_since_best
        self._moments = [o.on_moment for o in observers if hasattr(o, "on_moment")]
        self.restore_saved_best: Callable[[Model], int | None] | None = None
        self._best_weights: BestWeights | None = None
        self._best_step = 0
        self._best_test: Metrics | None = None
        self._soft_labels = config.has_soft_labels or has_soft_labels(train)

    def saved_by(self, checkpointer: Checkpointer) -> FitResult:
        """Execute while ``checkpointer`` observes the run, after all others."""
        optimizer = getattr(self.training_step, "optimizer", None)
        checkpointer.begin(self.model, self.config, self.train, self.test, optimizer)
        self.observers = [*self.observers, checkpointer]
        self._moments = [*self._moments, checkpointer.on_moment]
        if checkpointer.has_best:
            self.restore_saved_best = checkpointer.restore_best
        with checkpointer:
            return self.execute(self._start)

    def execute(self, start: Position) -> FitResult:
        began = time.perf_counter()
        self.result.position = start
        if self.result.best != Best() and self.restore_saved_best is None:
            self._save_best_weights()  # the run continues from its best test
        for observer in self.observers:
            observer.on_start(self.model, self.train.num_batches, self.config)
        if self._is_start_tested(start):
            self._run_test(0, -1)
            self._offer_moment()
        for epoch in range(start.epoch, self.config.epochs):
            if self.result.is_over:
                break
            first = start.batch if epoch == start.epoch else 0
            self._run_epoch(epoch, first)
        if not self.result.stopped_by:
            self._restore_best_weights()
        self.result.seconds = time.perf_counter() - began
        if self.result.steps:
            check_weights(self.model, self.result.position.step)
        if not self.result.stopped_by:
            for observer in self.observers:
                observer.on_end(self.result)
        return self.result

    def _is_start_tested(self, start: Position) -> bool:
        """Return whether the first parameters are tested, which a resumed run has done already."""
        is_new = start == START and self.result.best == Best()
        return self.config.test_first and is_new and self.test is not None

    def _run_epoch(self, epoch: int, first: int) -> None:
        for number, batch in enumerate(self.train.batches(epoch, first), first):
            record = self._train_on(batch, epoch, number)
            if record is not None:
                for observer in self.observers:
                    observer.on_step(record)
            if self._is_test_due(number):
                self._run_test(epoch, number)
            if self._is_updated(number):
                self._offer_moment()
            if self.result.is_over:
                return

    def _offer_moment(self) -> None:
        """Let observers save the run: the gradients of all its batches have been applied."""
        if self._moments:
            moment = Moment(self.result.position.step, self._state, self._stop)
            for on_moment in self._moments:
                on_moment(moment)

    def _state(self) -> RunState:
        source = stateful(self.train)
        data = None if source is None else source.state()
        position, best = self.result.position, self.result.best
        return RunState(position, best, self.plateau, self._tests_since_best, data)

    def _stop(self, by: str) -> None:
        if not self.result.is_over:
            self.result.stopped_by = by

    def _is_updated(self, number: int) -> bool:
        """Return whether the gradients of batch ``number`` and of those before were applied."""
        is_last = number + 1 == self.train.num_batches
        return is_last or (number + 1) % self.config.batches_per_update == 0

    def _train_on(self, batch: Batch, epoch: int, number: int) -> StepRecord | None:
        """Train on a batch; return None if it was skipped."""
        step = self.result.position.step
        where = f"epoch {epoch}, training batch {number}"
        if isinstance(self.config.loss, ListLoss):
            check_relevance(batch.labels, where)
        else:
            check_labels(batch.labels, where, soft=self._soft_labels)
        check_sample_weights(batch.sample_weights, where)
        per_update, batches = self.config.batches_per_update, self.train.num_batches
        is_last = number + 1 == batches
        rate = learning_rate(self.config.learning_rate, self.config.schedule, step // per_update)
        rate *= self.plateau.factor
        began = time.perf_counter()
        loss = self._loss_of(batch, rate, is_update=self._is_updated(number))
        seconds = time.perf_counter() - began
        self.result.position = Position(
            epoch + 1 if is_last else epoch, 0 if is_last else number + 1, step + 1
        )
        if not math.isfinite(loss):
            self._skip_or_stop(batch, loss, f"step {step + 1} ({where} of {batches})")
            return None
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

    def _loss_of(self, batch: Batch, rate: float, *, is_update: bool) -> float:
        """Return the loss; if it is not finite, nothing is trained on this batch."""
        with self.model.backend.flush_denormals():
            try:
                return self.training_step(batch, rate) if is_update else self._accumulate(batch)
            except NonFiniteLossError as error:
                if is_update and self.config.batches_per_update > 1:
                    self.training_step.apply_accumulated(rate)  # type: ignore[attr-defined]
                return error.loss

    def _skip_or_stop(self, batch: Batch, loss: float, where: str) -> None:
        cause = cause_of(self.model, batch)
        if self.config.on_nonfinite == "stop":
            raise TrainingError(
                f"the loss of {where} is {loss}: {cause}; the last checkpoint stays as it is "
                "(--on-nonfinite=skip skips such batches)"
            )
        check_weights(self.model, self.result.position.step)
        self.result.skipped += 1
        for observer in self.observers:
            if hasattr(observer, "on_skip"):
                observer.on_skip(self.result.position.step, f"{where}: {cause}")

    def _accumulate(self, batch: Batch) -> float:
        step = self.training_step
        assert isinstance(step, AccumulatingStep)  # fit refuses any other
        return step.accumulate(batch)

    def _restore_best_weights(self) -> None:
        """Return to the parameters of the best test, which an earlier run may have saved."""
        if self._best_weights is not None:
            self._best_weights.restore(self.model)
            self.result.restored_step = self._best_step
            self.result.test = self._best_test or self.result.test
        elif self.config.restore_best and self.restore_saved_best is not None:
            self.result.restored_step = self.restore_saved_best(self.model)
            if self.result.restored_step is not None:
                self.result.test = self._measured()

    def _save_best_weights(self) -> None:
        if not self.config.restore_best:
            return
        self._best_weights = self._best_weights or BestWeights()
        self._best_weights.save(self.model)
        self._best_step, self._best_test = self.result.position.step, self.result.test

    def _is_test_due(self, number: int) -> bool:
        if self.test is None:
            return False
        every, is_last = self.config.test_every, number + 1 == self.train.num_batches
        return is_last or (every > 0 and (number + 1) % every == 0)

    def _run_test(self, epoch: int, number: int) -> None:
        began = time.perf_counter()
        metrics = self._measured()
        seconds = time.perf_counter() - began
        improved = self._update_best(metrics)
        self._update_early_stopping(improved)
        self._update_plateau(metrics)
        self.result.test = metrics
        if improved:
            self._save_best_weights()
        record = TestRecord(
            step=self.result.position.step,
            epoch=epoch,
            batch=number,
            batches=self.train.num_batches,
            metrics=metrics,
            best=self.result.best,
            improved=improved,
            position=self.result.position,
            seconds=seconds,
            plateau=self.plateau,
        )
        self.result.history.append(record)
        for observer in self.observers:
            observer.on_test(record)

    def _measured(self) -> Metrics:
        assert self.test is not None
        return self.measure(self.model, self.test, threshold=self.config.threshold)

    def _update_early_stopping(self, improved: bool) -> None:
        """Count the tests since the best one."""
        self._tests_since_best = 0 if improved else self._tests_since_best + 1
        self.result.stopped_early = 0 < self.config.early_stopping <= self._tests_since_best

    def _update_plateau(self, metrics: Metrics) -> None:
        if self.config.plateau is not None:
            value = monitored(metrics, self.config.monitored)
            metric = metrics.accuracy if math.isnan(value) else value
            self.plateau = self.plateau.after(metric, self.config.plateau)

    def _update_best(self, metrics: Metrics) -> bool:
        before, config = self.result.best, self.config
        best = self.result.best = before.after(metrics)
        self.result.reached_threshold = (
            0 < config.accuracy_threshold <= metrics.accuracy
            or 0 < config.auc_threshold <= metrics.auc
        )
        by = config.monitored
        name = "accuracy" if math.isnan(monitored(metrics, by)) else by
        return bool(getattr(best, name) != getattr(before, name))


def evaluate(
    model: Model,
    source: Source,
    *,
    threshold: float = 0.0,
    on_scores: OnScores | None = None,
) -> Metrics:
    """Return the metrics of ``model`` on all batches of ``source``.

    ``threshold`` clamps the probabilities as :class:`~dlrmjit.config.training.LossConfig` says;
    ``on_scores`` is called with those of every batch and their targets.
    Of lists, the metrics are :class:`~dlrmjit.metrics.RankingMetrics`. Raises DataError for a label
    outside 0 to 1, or an unknown one, and for a relevance that no list can have.
    """
    check_preprocessing(model, source, "evaluation")
    refuse_distributed(model, "evaluate of dlrmjit.parallel.metrics tests it")
    tested = TestedRows()
    for batch in source.batches():
        tested.add(model, batch, batch.labels, getattr(batch, "lists", None), threshold)
        if on_scores is not None:
            on_scores(tested.scores[-1], batch.labels)
    metrics = compute_metrics(*tested.rows())
    if tested.lists is None:
        return metrics
    return RankingMetrics.of(metrics, metrics_of_sums([tested.lists.sums()]).named())
