"""How the gradient of a touched row updates it: an optimizer, and the learning rate of the step.

An update is lazy: only rows that a batch looks up are read or written, their states included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.embedding.storage import TableStorage
from dlrmjit_kernels.errors import ConfigError
from dlrmjit_kernels.microkernels.row_update import UpdateSpec
from dlrmjit_kernels.optimizers import Adagrad, Adam, OptimizerConfig, RowwiseAdagrad, Sgd

Rate = float | NDArray[np.float64]
"""A learning rate of all tables, or one for each (S,)."""
_MOST_SCALARS = 16  # of a rule


@dataclass(frozen=True)
class RowRule:
    """An optimizer from :mod:`dlrmjit_kernels.optimizers` at a learning rate."""

    optimizer: OptimizerConfig
    lr: Rate

    @property
    def l2(self) -> float:
        """Factor of ``w`` in the gradient."""
        return self.optimizer.l2

    @property
    def element_states(self) -> tuple[str, ...]:
        """Names of the states of the table's shape."""
        return self.optimizer.table_states

    @property
    def row_states(self) -> tuple[str, ...]:
        """Names of the states of one value per row, scratch included."""
        return self.optimizer.row_states + self.optimizer.row_scratch

    @property
    def kernel_name(self) -> str:
        """Name that no rule of other arithmetic has."""
        return "_".join((self.optimizer.name, *self.element_states, *self.row_states))

    @property
    def scalars(self) -> int:
        """Number of values ``k`` that the arithmetic needs in a step."""
        return len(self.optimizer.row_scalars(0.0, 1))


class SgdRows(RowRule):
    """``w -= lr * (g + l2 * w)``."""

    def __init__(self, lr: float, l2: float = 0.0) -> None:
        super().__init__(Sgd(l2), lr)


class MomentumRows(RowRule):
    """``m = momentum * m + g + l2 * w; w -= lr * m``."""

    def __init__(self, lr: float, l2: float = 0.0, momentum: float = 0.9) -> None:
        super().__init__(Sgd(l2, momentum), lr)


class AdagradRows(RowRule):
    """:class:`~dlrmjit_kernels.optimizers.Adagrad`; ``constants`` are its own."""

    def __init__(self, lr: float, l2: float = 0.0, *constants: float, **named: float) -> None:
        super().__init__(Adagrad(l2, *constants, **named), lr)


class RowwiseAdagradRows(RowRule):
    """:class:`~dlrmjit_kernels.optimizers.RowwiseAdagrad`; ``constants`` are its own."""

    def __init__(self, lr: float, l2: float = 0.0, *constants: float, **named: float) -> None:
        super().__init__(RowwiseAdagrad(l2, *constants, **named), lr)


class AdamRows(RowRule):
    """Lazy Adam (as ``torch.optim.SparseAdam``); ``constants`` are those of ``Adam``."""

    def __init__(self, lr: float, l2: float = 0.0, *constants: float, **named: float) -> None:
        super().__init__(Adam(l2, *constants, **named), lr)


class Scalars:
    """The numbers that micro-kernels read in a step: one set for all ``tables``, or one for each.

    Those of plain gradient descent, which ``scatters`` lookups, are the negative rate alone.
    """

    def __init__(self, optimizer: OptimizerConfig, scatters: bool, tables: int) -> None:
        self._optimizer, self._scatters = optimizer, scatters
        self._values = np.zeros((tables, _MOST_SCALARS), np.float32)
        first, step = self._values.ctypes.data, self._values.strides[0]
        self._first, self._own = first, first + step * np.arange(tables)
        self.addresses = np.full(tables, first, np.int64)
        """Addresses (S,) of the tables' numbers, 0 for a table that does not change."""
        self._are_shared = True

    def set(self, rate: Rate, step: int) -> None:
        """Compute the numbers of a step. Raises ConfigError for rates of other tables."""
        if not isinstance(rate, np.ndarray):
            self._fill(0, rate, step)
            if not self._are_shared:
                self.addresses[...], self._are_shared = self._first, True
            return
        if rate.shape != self._own.shape:
            raise ConfigError(
                f"learning rates of single tables must be {self._own.shape}, not {rate.shape}"
            )
        for table, each in enumerate(rate.tolist()):
            self._fill(table, each, step)
        self.addresses[...], self._are_shared = np.where(rate == 0, 0, self._own), False

    def _fill(self, table: int, rate: float, step: int) -> None:
        if self._scatters:
            self._values[table, 0] = -rate
        else:
            found = (self._optimizer.l2, *self._optimizer.row_scalars(rate, step))
            self._values[table, : len(found)] = found


def update_spec(
    rule: RowRule, tables: TableStorage, scaled: bool, pairs: bool = False
) -> UpdateSpec:
    """Return the specification of the micro-kernel that applies a rule to such tables."""
    return UpdateSpec(
        rule.kernel_name,
        tables.dim,
        rule.scalars,
        len(rule.element_states),
        rule.optimizer.element,
        len(rule.row_states),
        rule.optimizer.row if rule.row_states else None,
        scaled,
        tables.split,
        pairs,
    )


def check_states(tables: TableStorage, rule: RowRule, states: tuple[TableStorage, ...]) -> None:
    """Raise ConfigError unless ``states`` are those that the rule has for such tables."""
    dims = [tables.dim] * len(rule.element_states) + [1] * len(rule.row_states)
    if len(states) != len(dims):
        raise ConfigError(f"{rule.optimizer.name} needs the state that new_state(rule) makes")
    for stored, dim in zip(states, dims, strict=True):
        if stored.rows != tables.rows or stored.dim != dim or stored.split or stored is tables:
            raise ConfigError(
                f"{rule.optimizer.name} needs the state that new_state(rule) makes for these "
                f"tables: rows {_some(tables.rows)} of {dim} columns, not "
                f"{_some(stored.rows)} of {stored.dim}"
            )
    if len(dims) == 2 and states[0] is states[1]:
        raise ConfigError(f"{rule.optimizer.name} needs two states, not one state twice")


def _some(rows: tuple[int, ...]) -> str:
    """Return the first rows, as messages show them."""
    return f"({', '.join(map(str, rows[:4]))}{', ...' if len(rows) > 4 else ''})"
