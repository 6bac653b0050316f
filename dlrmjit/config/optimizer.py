"""Optimisers as frozen values: which rule moves parameters, with which constants.

What a rule computes stands with the backends that compute it; which memory it needs stands
here, so that it can be counted before any is allocated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from dlrmjit.errors import ConfigError


@dataclass(frozen=True)
class OptimizerConfig:
    """Base of all: ``weight_decay * w`` is added to every gradient (L2).

    On embedding tables every rule is lazy: rows that a batch does not look up keep their values
    and what is remembered of them, decay included.
    """

    weight_decay: float = 0.0
    name: ClassVar[str]

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            if not value >= 0:
                raise ConfigError(f"{key} of {self.name} must not be negative, not {value}")

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states of a dense parameter's shape."""
        return ()

    @property
    def table_states(self) -> tuple[str, ...]:
        """Names of the states of a table's shape."""
        return self.states

    @property
    def row_states(self) -> tuple[str, ...]:
        """Names of the states of one value per row of a table, in place of ``table_states``."""
        return ()

    @property
    def initial_state(self) -> float:
        """What every state starts from."""
        return 0.0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Sgd(OptimizerConfig):
    """``m = momentum * m + g; w -= rate * m``; without momentum nothing is remembered."""

    momentum: float = 0.0
    name: ClassVar[str] = "sgd"

    @property
    def states(self) -> tuple[str, ...]:
        """The running gradient, where there is momentum."""
        return ("momentum_buffer",) if self.momentum else ()


@dataclass(frozen=True)
class Adagrad(OptimizerConfig):
    """``h += g**2; w -= rate * g / (sqrt(h) + eps)`` (Duchi et al. 2011), as torch.optim.Adagrad.

    With ``lr_decay`` the rate of step t = 1, 2, ... is divided by ``1 + (t - 1) * lr_decay``.
    """

    eps: float = 1e-10
    lr_decay: float = 0.0
    initial_accumulator: float = 0.0
    name: ClassVar[str] = "adagrad"

    @property
    def states(self) -> tuple[str, ...]:
        """The sum of squares."""
        return ("sum",)

    @property
    def initial_state(self) -> float:
        """The initial accumulator."""
        return self.initial_accumulator


@dataclass(frozen=True)
class RowwiseAdagrad(Adagrad):
    """Adagrad with one sum per row of a table, ``h += mean(g**2)``; on MLPs, Adagrad."""

    name: ClassVar[str] = "rwsadagrad"

    @property
    def table_states(self) -> tuple[str, ...]:
        """None of a table's shape."""
        return ()

    @property
    def row_states(self) -> tuple[str, ...]:
        """The sum of mean squares, under the reference program's name."""
        return ("momentum",)


@dataclass(frozen=True)
class SharedRowwiseAdagrad(RowwiseAdagrad):
    """The same where nobody has whole rows: each row's mean square is left in a state before."""

    @property
    def row_states(self) -> tuple[str, ...]:
        """The sum, and the mean square of the step at hand."""
        return ("momentum", "mean_square")


@dataclass(frozen=True)
class Adam(OptimizerConfig):
    """Adam (Kingma and Ba 2015), as torch.optim.Adam on MLPs and SparseAdam on tables."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    name: ClassVar[str] = "adam"

    def __post_init__(self) -> None:
        super().__post_init__()
        if max(self.beta1, self.beta2) >= 1.0:
            raise ConfigError(f"betas of adam must be below 1, not {self.beta1} and {self.beta2}")

    @property
    def states(self) -> tuple[str, ...]:
        """Both moments."""
        return ("exp_avg", "exp_avg_sq")


OPTIMIZERS: Mapping[str, type[OptimizerConfig]] = {
    kind.name: kind for kind in (Sgd, Adagrad, RowwiseAdagrad, Adam)
}


def optimizer_named(name: str) -> OptimizerConfig:
    """The optimiser called ``name``, with its defaults; raises ConfigError naming the known."""
    if name not in OPTIMIZERS:
        raise ConfigError(f"unknown optimizer {name!r}; known are {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]()


@dataclass(frozen=True)
class UpdateConfig:
    """How gradients become updates.

    Parameters
    ----------
    mlps, tables : the optimisers of dense parameters and of embedding tables
    tables_rate : learning rate of the tables, as a multiple of that of the MLPs
    clip_norm : scale all gradients of a step down to this Euclidean norm where theirs is
        larger; 0 leaves them. Costs time: no gradient can be applied before all are there
    """

    mlps: OptimizerConfig = field(default_factory=Sgd)
    tables: OptimizerConfig = field(default_factory=Sgd)
    tables_rate: float = 1.0
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        if not self.tables_rate >= 0 or not self.clip_norm >= 0:
            raise ConfigError(
                "the tables' learning rate and the norm to clip to must not be negative, not "
                f"{self.tables_rate} and {self.clip_norm}"
            )

    @property
    def remembers(self) -> bool:
        """Whether anything is kept from step to step."""
        return bool(self.mlps.states or self.tables.table_states or self.tables.row_states)

    @classmethod
    def of(cls, what: UpdateConfig | OptimizerConfig | str) -> UpdateConfig:
        """The same, or one optimiser, given as a value or by name, for all parameters."""
        if isinstance(what, UpdateConfig):
            return what
        one = optimizer_named(what) if isinstance(what, str) else what
        return cls(one, one)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description of what decides which states are kept."""
        return {"mlps": self.mlps.to_dict(), "tables": self.tables.to_dict()}
