"""The events of a training run, and the moments at which it can be saved: values for observers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from dlrmjit.config.training import Monitor, TrainConfig
from dlrmjit.errors import ConfigError
from dlrmjit.metrics import Metrics, RankingMetrics
from dlrmjit.model.model import Model
from dlrmjit.optim import Plateau


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
    ndcg: float = 0.0

    def after(self, metrics: Metrics) -> Best:
        """Return the best results with those of one more test; what is undefined is not better."""
        values = {
            "accuracy": max(self.accuracy, metrics.accuracy),
            "auc": max(self.auc, metrics.auc),
            "logloss": min(self.logloss, metrics.logloss),
        }
        if isinstance(metrics, RankingMetrics):
            values["ndcg"] = max(self.ndcg, metrics.ndcg)
        return Best(**(vars(self) | values))


def monitored(metrics: Metrics, by: Monitor) -> float:
    """Return the metric by which tests are compared, larger if better; NaN if it is undefined.

    Raises ConfigError for NDCG of rows that are in no lists.
    """
    if by == "logloss":
        return -metrics.logloss
    if by == "auc":
        return metrics.auc
    if not isinstance(metrics, RankingMetrics):
        raise ConfigError(
            "NDCG is that of lists, but the rows to test on are in none; monitor auc or logloss"
        )
    return metrics.ndcg


START, NO_TEST = Position(), Best()
"""The position of a new run, and its best results."""


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
    ``skipped`` counts the batches left out because their loss was not finite, ``stopped_by`` says
    who asked the run to stop, such as ``SIGTERM``. ``history`` has all tests of this call in order.
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
    skipped: int = 0
    stopped_by: str = ""
    history: list[TestRecord] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether a test or a request ended the run before its last epoch."""
        return self.reached_threshold or self.stopped_early or bool(self.stopped_by)

    def _repr_html_(self) -> str:
        """Return a table of all tests, for notebooks."""
        names = ("step", "epoch", "AUC", "log loss", "accuracy")
        rows = [
            (f"{r.step:,}", r.epoch + 1, *(f"{v:.4f}" for v in _shown(r.metrics)))
            for r in self.history
        ]
        head = "".join(f"<th>{name}</th>" for name in names)
        body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
        text = f"{self.steps:,} steps, {self.samples:,} samples, {self.seconds:.1f} s"
        return f"<p>{text}</p><table><tr>{head}</tr>{body}</table>"


def _shown(metrics: Metrics) -> tuple[float, float, float]:
    return metrics.auc, metrics.logloss, metrics.accuracy


@dataclass(frozen=True)
class RunState:
    """All that a run needs, next to the model and the optimizer, to continue with the same bits.

    ``tests_since_best`` counts for early stopping; ``data`` is the state of a source that has one,
    JSON-ready.
    """

    position: Position = field(default_factory=Position)
    best: Best = field(default_factory=Best)
    plateau: Plateau = field(default_factory=Plateau)
    tests_since_best: int = 0
    data: Any = None


@dataclass(frozen=True)
class Moment:
    """A moment between two batches at which a run can be saved.

    ``state`` returns the state of the run; ``request_stop`` ends the run here, and its text becomes
    :attr:`FitResult.stopped_by`.
    """

    step: int
    state: Callable[[], RunState]
    request_stop: Callable[[str], None]


class Observer(Protocol):
    """Receives the events of a run; each method may do nothing.

    An observer may also have ``on_moment(moment)``, called between two batches, after the test if
    there is one, and ``on_skip(step, cause)``, called for a batch whose loss is not finite.
    """

    def on_start(self, model: Model, batches: int, config: TrainConfig) -> None:
        """Called before the first step of a run."""

    def on_step(self, record: StepRecord) -> None:
        """Called after every training step."""

    def on_test(self, record: TestRecord) -> None:
        """Called after every test."""

    def on_end(self, result: FitResult) -> None:
        """Called after the last step, or when a test ended the run; not after an exception.

        Nor is it called for a run that was asked to stop, which another run continues.
        """


class NullObserver:
    """An observer that does nothing: a base class for those that need only some events."""

    def on_start(self, model: Model, batches: int, config: TrainConfig) -> None:
        """Ignore the start."""

    def on_step(self, record: StepRecord) -> None:
        """Ignore a step."""

    def on_test(self, record: TestRecord) -> None:
        """Ignore a test."""

    def on_moment(self, moment: Moment) -> None:
        """Ignore a moment at which the run can be saved."""

    def on_skip(self, step: int, cause: str) -> None:
        """Ignore a batch that was skipped."""

    def on_end(self, result: FitResult) -> None:
        """Ignore the end."""
