"""Settings of training: the loss, the learning rate, the optimizer and when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from dlrmjit.config.list_loss import ListLoss
from dlrmjit.config.optimizer import LARGEST_RATE, OptimizerConfig, UpdateConfig
from dlrmjit.errors import ConfigError

LossKind = Literal["bce", "wbce", "mse", "custom"]
LossFunction = Callable[[Any, Any], tuple[Any, Any]]
"""Maps logits and targets, both (N,) float arrays, to the losses (N,) of all samples and to their
derivatives (N,) by the logits."""
Monitor = Literal["auc", "logloss", "ndcg"]


@dataclass(frozen=True)
class LossConfig:
    """The training loss of predicted probabilities p against targets in [0, 1].

    ``weights`` scale negative and positive samples of ``wbce``. With 0 < ``threshold`` < 1, p is
    clamped to [threshold, 1 - threshold] before the loss, as in the reference program. Targets of
    a cross entropy are 0 or 1; with ``soft_labels``, ``bce`` also takes probabilities. Raises
    ConfigError for ``soft_labels`` with ``wbce``, which has a weight for each of two classes.
    """

    kind: LossKind = "bce"
    weights: tuple[float, float] = (1.0, 1.0)
    threshold: float = 0.0
    soft_labels: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("bce", "wbce", "mse"):
            raise ConfigError(f"loss must be mse, bce or wbce, not {self.kind!r}")
        if self.soft_labels and self.kind == "wbce":
            raise ConfigError(
                "wbce weighs the classes 0 and 1, which soft labels do not have; use bce"
            )


@dataclass(frozen=True)
class CustomLoss(LossConfig):
    """A user-defined training loss: the mean over a batch of the results of ``function``.

    ``function`` is a :data:`LossFunction`. Weights of samples scale its results. It should return
    the same for a sample in any batch, because ranks and micro-batches call it with parts of one,
    and be a function of a module if models or steps are pickled. With ``soft_labels``, targets are
    probabilities, else 0 or 1. Raises ConfigError for what cannot be called.
    """

    kind: LossKind = field(default="custom", init=False)
    weights: tuple[float, float] = field(default=(1.0, 1.0), init=False)
    threshold: float = field(default=0.0, init=False)
    function: LossFunction | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ConfigError(f"a custom loss needs a function, not {self.function!r}")


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over steps: linear warm-up, then constant, then quadratic decay.

    Raises ConfigError when the decay starts before the warm-up ends.
    """

    warmup_steps: int = 0
    decay_start_step: int = 0
    decay_steps: int = 0

    def __post_init__(self) -> None:
        if self.decay_steps > 0 and self.decay_start_step < self.warmup_steps:
            raise ConfigError(
                f"the learning rate decay starts at step {self.decay_start_step}, before the "
                f"warm-up of {self.warmup_steps} steps ends; start it later or shorten the warm-up"
            )


@dataclass(frozen=True)
class CosineSchedule:
    """Linear warm-up, then half a cosine from 1 down to ``last`` times the rate after ``steps``.

    Like any function from the number of an update, 0, 1, ..., to a factor, it is a schedule
    (Loshchilov and Hutter 2017). Raises ConfigError for a warm-up as long as all steps.
    """

    steps: int
    warmup_steps: int = 0
    last: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps < self.steps:
            raise ConfigError(
                f"a warm-up of {self.warmup_steps} steps must be shorter than all {self.steps}"
            )

    def __call__(self, step: int) -> float:
        """Return the factor of update ``step``."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / (self.steps - self.warmup_steps))
        return self.last + (1 - self.last) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class StepSchedule:
    """Multiply the rate by ``factor`` after every ``every`` updates, as torch's ``StepLR``."""

    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        if self.every < 1 or not self.factor > 0:
            raise ConfigError(
                f"a factor of {self.factor} every {self.every} steps is no schedule; both must be "
                "positive"
            )

    def __call__(self, step: int) -> float:
        """Return the factor of update ``step``."""
        return float(self.factor ** (step // self.every))


Schedule = ScheduleConfig | Callable[[int], float]
"""The reference's schedule, or a function from the number of an update to a factor of the rate."""


@dataclass(frozen=True)
class PlateauConfig:
    """Multiply the learning rate by ``factor`` when tests stop improving.

    They do when more than ``patience`` tests in a row were not better than the best one by more
    than ``threshold``, as ``monitor`` says.
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ConfigError(
                f"a reduction on a plateau must be between 0 and 1, not {self.factor}"
            )


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained: every setting of a run that is not about model or data.

    Parameters
    ----------
    epochs : passes over the training data
    learning_rate : rate before ``schedule`` and ``plateau`` scale it
    optimizer : name or value of the optimizer of all parameters, or an
        :class:`~dlrmjit.config.optimizer.UpdateConfig`
    loss, schedule, plateau : what is minimised, and how the learning rate changes
    test_every : batches between tests; 0 tests only after the last batch of an epoch. Without a
        test set there are none
    accuracy_threshold, auc_threshold : a test at or above a positive one ends training
    monitor : by what a test is better than another: a larger ``auc``, a smaller ``logloss`` or, of
        lists, a larger ``ndcg``; a larger accuracy where that is undefined. By default ``ndcg`` for
        a loss of lists, else ``auc``
    early_stopping : if positive, so many tests in a row without a better one end training
    test_first : whether the parameters before the first step are tested too
    restore_best : whether training ends with the parameters of the best test. Takes the memory of a
        second copy of all parameters
    batches_per_update : batches whose gradients are summed before an update; fewer at the end of
        an epoch. ``schedule`` counts updates; it is one of the values of this module, or any
        function from 0, 1, ... to a factor of the learning rate
    on_nonfinite : what a batch does whose loss is not finite: ``stop`` the run with TrainingError,
        or be skipped. It is not trained on in either case
    """

    epochs: int = 1
    learning_rate: float = 0.01
    optimizer: str | OptimizerConfig | UpdateConfig = "sgd"
    loss: LossConfig | ListLoss = field(default_factory=LossConfig)
    schedule: Schedule = field(default_factory=ScheduleConfig)
    plateau: PlateauConfig | None = None
    test_every: int = 0
    accuracy_threshold: float = 0.0
    auc_threshold: float = 0.0
    early_stopping: int = 0
    monitor: Monitor | None = None
    test_first: bool = False
    restore_best: bool = False
    batches_per_update: int = 1
    on_nonfinite: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        if not isinstance(self.loss, (LossConfig, ListLoss)):
            raise ConfigError(
                f"loss must be a LossConfig or a ListLoss, not {type(self.loss).__name__}"
            )
        if self.batches_per_update < 1:
            raise ConfigError(
                f"the batches of an update must be at least 1, not {self.batches_per_update}"
            )
        if self.on_nonfinite not in ("stop", "skip"):
            raise ConfigError(f"on_nonfinite must be stop or skip, not {self.on_nonfinite!r}")
        if self.test_every % self.batches_per_update:
            raise ConfigError(
                f"a test every {self.test_every} batches would come between the "
                f"{self.batches_per_update} batches of an update; take a multiple of these"
            )
        if self.monitor is not None and self.monitor not in get_args(Monitor):
            raise ConfigError(f"monitor must be auc, logloss or ndcg, not {self.monitor!r}")
        if self.early_stopping < 0:
            raise ConfigError(
                f"the tests before an early stop must not be negative, not {self.early_stopping}"
            )
        if self.epochs < 0:
            raise ConfigError(f"the number of epochs must not be negative, not {self.epochs}")
        if not 0.0 <= self.learning_rate <= LARGEST_RATE:
            raise ConfigError(
                f"the learning rate must be between 0 and {LARGEST_RATE:g}, not "
                f"{self.learning_rate:g}"
            )

    @property
    def monitored(self) -> Monitor:
        """The metric by which tests are compared."""
        return self.monitor or ("ndcg" if isinstance(self.loss, ListLoss) else "auc")

    @property
    def threshold(self) -> float:
        """How far probabilities of a test are clamped."""
        return self.loss.threshold if isinstance(self.loss, LossConfig) else 0.0

    @property
    def has_soft_labels(self) -> bool:
        """Whether the loss takes probabilities as labels."""
        return isinstance(self.loss, LossConfig) and (
            self.loss.kind == "mse" or self.loss.soft_labels
        )

    @property
    def update(self) -> UpdateConfig:
        """The value of ``optimizer`` as an UpdateConfig."""
        return UpdateConfig.of(self.optimizer)
