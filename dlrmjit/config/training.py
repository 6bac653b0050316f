"""How a model is trained: its loss, its learning rate, its optimiser and when it stops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dlrmjit.config.optimizer import OptimizerConfig, UpdateConfig
from dlrmjit.errors import ConfigError

LossKind = Literal["bce", "wbce", "mse"]


@dataclass(frozen=True)
class LossConfig:
    """The training loss of predicted probabilities p against targets in [0, 1].

    ``weights`` scale negative and positive samples of ``wbce``; with 0 < ``threshold`` < 1, p is
    clamped to [threshold, 1 - threshold] before the loss, as the reference does.
    """

    kind: LossKind = "bce"
    weights: tuple[float, float] = (1.0, 1.0)
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("bce", "wbce", "mse"):
            raise ConfigError(f"loss must be mse, bce or wbce, not {self.kind!r}")


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
class PlateauConfig:
    """Multiply the learning rate by ``factor`` when tests stop improving.

    That is when more than ``patience`` tests in a row have not raised the best AUC (the best
    accuracy, where there is no AUC) by more than ``threshold``.
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ConfigError(
                f"a reduction on a plateau must lie between 0 and 1, not {self.factor}"
            )


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained: everything of a run that is neither model nor data.

    ``optimizer`` is the name or the value of one for all parameters, or says more (see
    :class:`~dlrmjit.config.optimizer.UpdateConfig`). ``test_every`` counts steps between tests
    (0: only after the last step of an epoch, when there is a test set); a test at or above a
    positive threshold ends training, and so do ``early_stopping`` tests in a row, where that is
    positive, none of which raised the best AUC (the best accuracy, where there is no AUC).

    The gradients of ``batches_per_update`` batches are summed before an update, those of an
    epoch's last batches however few they are; ``schedule`` counts updates, tests batches.
    """

    epochs: int = 1
    learning_rate: float = 0.01
    optimizer: str | OptimizerConfig | UpdateConfig = "sgd"
    loss: LossConfig = field(default_factory=LossConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    plateau: PlateauConfig | None = None
    test_every: int = 0
    accuracy_threshold: float = 0.0
    auc_threshold: float = 0.0
    early_stopping: int = 0
    batches_per_update: int = 1

    def __post_init__(self) -> None:
        if self.batches_per_update < 1:
            raise ConfigError(
                f"the batches of an update must be at least 1, not {self.batches_per_update}"
            )
        if self.test_every % self.batches_per_update:
            raise ConfigError(
                f"a test every {self.test_every} batches would come between the "
                f"{self.batches_per_update} batches of an update; take a multiple of these"
            )
        if self.early_stopping < 0:
            raise ConfigError(
                f"tests to wait before stopping must not be negative, not {self.early_stopping}"
            )
        if self.epochs < 0:
            raise ConfigError(f"the number of epochs must not be negative, not {self.epochs}")
        if not self.learning_rate >= 0.0:
            raise ConfigError(f"the learning rate must not be negative, not {self.learning_rate}")

    @property
    def update(self) -> UpdateConfig:
        """What ``optimizer`` means in full."""
        return UpdateConfig.of(self.optimizer)
