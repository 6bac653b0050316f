"""Which optimizers update a model's parameters, with which constants.

The optimizers themselves, arithmetic included, are in :mod:`dlrmjit_kernels.optimizers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dlrmjit_kernels.optimizers import (
    OPTIMIZERS,
    Adagrad,
    Adam,
    AdamW,
    Ftrl,
    Lamb,
    OptimizerConfig,
    RowwiseAdagrad,
    Sgd,
    optimizer_named,
)

from dlrmjit.errors import ConfigError

__all__ = [
    "OPTIMIZERS",
    "Adagrad",
    "Adam",
    "AdamW",
    "Ftrl",
    "Lamb",
    "OptimizerConfig",
    "RowwiseAdagrad",
    "Sgd",
    "UpdateConfig",
    "optimizer_named",
]


LARGEST_RATE = 1e30
"""What float32 holds, with room for the factors by which optimizers multiply it."""


@dataclass(frozen=True)
class UpdateConfig:
    """How gradients become updates.

    Parameters
    ----------
    mlps, tables : the optimizers of dense parameters and of embedding tables
    tables_rate : learning rate of the tables, as a multiple of that of the MLPs
    clip_norm : scale all gradients of a step down to this Euclidean norm if theirs is larger; 0
        does not clip. Costs time: no gradient can be applied before all are computed
    column_rates : learning rates of the tables of single categorical columns, as ``tables_rate``,
        which they replace. The keys are names of columns, if the model's data have names, or
        numbers from 0. Tables with rate 0 do not change
    """

    mlps: OptimizerConfig = field(default_factory=Sgd)
    tables: OptimizerConfig = field(default_factory=Sgd)
    tables_rate: float = 1.0
    clip_norm: float = 0.0
    column_rates: Mapping[str | int, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not 0 <= self.tables_rate <= LARGEST_RATE:
            raise ConfigError(
                f"the tables' learning rate must be between 0 and {LARGEST_RATE:g} times that of "
                f"the MLPs, not {self.tables_rate}"
            )
        for column, rate in self.column_rates.items():
            if not 0 <= rate <= LARGEST_RATE:
                raise ConfigError(
                    f"the learning rate of column {column!r} must be between 0 and "
                    f"{LARGEST_RATE:g} times that of the MLPs, not {rate}"
                )
        if not self.clip_norm >= 0:
            raise ConfigError(f"the norm to clip to must not be negative, not {self.clip_norm}")
        if self.tables.scales_to_norm:
            raise ConfigError(
                f"{self.tables.name} is for dense parameters only: its step is as long as a whole "
                "parameter, but a batch changes few rows of a table; give another optimizer for "
                "tables, such as UpdateConfig(Lamb(), Adam()) or --sparse-optimizer=adam"
            )

    @property
    def has_state(self) -> bool:
        """Whether any optimizer has states."""
        return bool(self.mlps.states or self.tables.table_states or self.tables.row_states)

    @classmethod
    def of(cls, what: UpdateConfig | OptimizerConfig | str) -> UpdateConfig:
        """Return ``what``, or a configuration with this optimizer for all parameters.

        An optimizer is given as a value or by name; raises ConfigError for an unknown name.
        """
        if isinstance(what, UpdateConfig):
            return what
        optimizer = optimizer_named(what) if isinstance(what, str) else what
        return cls(optimizer, optimizer)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description of what decides which states there are."""
        return {"mlps": self.mlps.to_dict(), "tables": self.tables.to_dict()}
