"""How the gradient of a touched row updates it: an optimizer, and the learning rate of the step.

An update is lazy: only rows that a batch looks up are read or written, their states included.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlrmjit_kernels.embedding.storage import TableStorage
from dlrmjit_kernels.microkernels.row_update import UpdateSpec
from dlrmjit_kernels.optimizers import Adagrad, Adam, OptimizerConfig, RowwiseAdagrad, Sgd


@dataclass(frozen=True)
class RowRule:
    """An optimizer from :mod:`dlrmjit_kernels.optimizers` at a learning rate."""

    optimizer: OptimizerConfig
    lr: float

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

    def scalars(self, step: int) -> tuple[float, ...]:
        """Return the values ``k`` that the arithmetic needs in step 1, 2, ..."""
        return self.optimizer.row_scalars(self.lr, step)


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


def update_spec(
    rule: RowRule, tables: TableStorage, scaled: bool, pairs: bool = False
) -> UpdateSpec:
    """Return the specification of the micro-kernel that applies a rule to such tables."""
    return UpdateSpec(
        rule.kernel_name,
        tables.dim,
        len(rule.scalars(1)),
        len(rule.element_states),
        rule.optimizer.element,
        len(rule.row_states),
        rule.optimizer.row if rule.row_states else None,
        scaled,
        tables.split,
        pairs,
    )
