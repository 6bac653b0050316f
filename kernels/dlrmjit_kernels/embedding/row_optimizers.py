"""How the gradient of a touched row updates it: one small class per optimizer.

A rule is lazy: only rows that a batch looks up are read or written, their states included. Its
arithmetic is written once, in ``element`` and ``row``, over values that support ``+ - * /`` and
:func:`sqrt`: vectors in registers when a kernel is generated, or NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

Updated = tuple[Any, Sequence[Any]]


def sqrt(x: Any) -> Any:
    """Return the square root of a vector of a kernel or of a NumPy value."""
    return x.sqrt() if hasattr(x, "sqrt") else np.sqrt(x)


@dataclass(frozen=True)
class RowRule:
    """A learning rate, and L2 decay ``l2 * w`` added to the gradient of touched rows.

    ``element_states`` names the states of the table's shape, ``row_states`` those of one value
    per row; a rule has at most two, of one kind. ``scalars(step)`` are the values ``k`` of the
    step, counted from 1.
    """

    lr: float
    l2: float = 0.0

    name: ClassVar[str]
    element_states: ClassVar[tuple[str, ...]] = ()
    row_states: ClassVar[tuple[str, ...]] = ()

    def scalars(self, step: int) -> tuple[float, ...]:
        """Return the values ``k`` that the arithmetic needs in this step."""
        return (self.lr,)

    @property
    def initial_state(self) -> float:
        """Initial value of every state."""
        return 0.0

    @staticmethod
    def element(w: Any, g: Any, states: Any, k: Any, factor: Any) -> Updated:
        """Return new elements and element states."""
        raise NotImplementedError

    @staticmethod
    def row(mean_square: Any, states: Any, k: Any) -> Updated:
        """Return the factor passed to ``element``, and new row states; if there are any."""
        raise NotImplementedError


@dataclass(frozen=True)
class SgdRows(RowRule):
    """``w -= lr * g``."""

    name: ClassVar[str] = "sgd"

    @staticmethod
    def element(w: Any, g: Any, states: Any, k: Any, factor: Any) -> Updated:
        """Return elements moved against the gradient."""
        return w - k[0] * g, ()


@dataclass(frozen=True)
class MomentumRows(RowRule):
    """``m = momentum * m + g; w -= lr * m``, for touched rows."""

    momentum: float = 0.9
    name: ClassVar[str] = "momentum"
    element_states: ClassVar[tuple[str, ...]] = ("momentum",)

    def scalars(self, step: int) -> tuple[float, ...]:
        """Return the learning rate and the momentum."""
        return (self.lr, self.momentum)

    @staticmethod
    def element(w: Any, g: Any, states: Any, k: Any, factor: Any) -> Updated:
        """Return elements moved against the running gradient, and that gradient."""
        m = k[1] * states[0] + g
        return w - k[0] * m, (m,)


@dataclass(frozen=True)
class AdagradRows(RowRule):
    """``h += g**2; w -= d * g / (sqrt(h) + eps)``, ``d = lr / (1 + (step - 1) * lr_decay)``."""

    eps: float = 1e-10
    lr_decay: float = 0.0
    initial_accumulator: float = 0.0
    name: ClassVar[str] = "adagrad"
    element_states: ClassVar[tuple[str, ...]] = ("sum",)

    @property
    def initial_state(self) -> float:
        """Initial value of the accumulator."""
        return self.initial_accumulator

    def scalars(self, step: int) -> tuple[float, ...]:
        """Return the decayed learning rate and epsilon."""
        return (self.lr / (1.0 + (step - 1) * self.lr_decay), self.eps)

    @staticmethod
    def element(w: Any, g: Any, states: Any, k: Any, factor: Any) -> Updated:
        """Return elements moved with a step size each, and their accumulators."""
        h = states[0] + g * g
        return w - k[0] * g / (sqrt(h) + k[1]), (h,)


@dataclass(frozen=True)
class RowwiseAdagradRows(AdagradRows):
    """Adagrad with one accumulator per row: ``h += mean(g**2)`` over the row."""

    name: ClassVar[str] = "rowwise_adagrad"
    element_states: ClassVar[tuple[str, ...]] = ()
    row_states: ClassVar[tuple[str, ...]] = ("momentum",)

    @staticmethod
    def row(mean_square: Any, states: Any, k: Any) -> Updated:
        """Return the row's step size, and its accumulator."""
        h = states[0] + mean_square
        return k[0] / (sqrt(h) + k[1]), (h,)

    @staticmethod
    def element(w: Any, g: Any, states: Any, k: Any, factor: Any) -> Updated:
        """Return elements moved with the row's step size."""
        return w - factor * g, ()


@dataclass(frozen=True)
class SharedRowwiseAdagradRows(RowwiseAdagradRows):
    """Row-wise Adagrad on some columns of a row, whose mean square over all is the second state."""

    name: ClassVar[str] = "shared_rowwise_adagrad"
    row_states: ClassVar[tuple[str, ...]] = ("momentum", "mean_square")

    @staticmethod
    def row(mean_square: Any, states: Any, k: Any) -> Updated:
        """Return the step size of the whole row, and its accumulator; ignore this part's square."""
        h = states[0] + states[1]
        return k[0] / (sqrt(h) + k[1]), (h, states[1])


@dataclass(frozen=True)
class AdamRows(RowRule):
    """Lazy Adam (as ``torch.optim.SparseAdam``): moments of touched rows only, global step."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    name: ClassVar[str] = "adam"
    element_states: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")

    def scalars(self, step: int) -> tuple[float, ...]:
        """Return the bias-corrected step size, decay rates and their complements, epsilon."""
        size = self.lr * (1.0 - self.beta2**step) ** 0.5 / (1.0 - self.beta1**step)
        return (size, self.beta1, 1.0 - self.beta1, self.beta2, 1.0 - self.beta2, self.eps)

    @staticmethod
    def element(w: Any, g: Any, states: Any, k: Any, factor: Any) -> Updated:
        """Return elements moved against the first moment, scaled by the second, and both."""
        m = k[1] * states[0] + k[2] * g
        v = k[3] * states[1] + k[4] * (g * g)
        return w - k[0] * m / (sqrt(v) + k[5]), (m, v)
