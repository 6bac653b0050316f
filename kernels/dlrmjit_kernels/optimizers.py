"""Optimizers, each declared once: its constants, its states and the arithmetic of a step.

Whatever depends on an optimizer reads it here: the compiled updates of parameters and of table
rows, the NumPy backend, the memory estimate, checkpoints and the command line. To add one, write
a class and list it in ``OPTIMIZERS``.

The arithmetic is written over vectors in registers and NumPy arrays alike, see
:mod:`dlrmjit_kernels.optimizer_base`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dlrmjit_kernels.errors import ConfigError
from dlrmjit_kernels.optimizer_base import OptimizerConfig as OptimizerConfig
from dlrmjit_kernels.optimizer_base import Updated as Updated
from dlrmjit_kernels.optimizer_base import positive_part, sqrt

_SMALLEST_RATE = 1e-20  # of which the inverse is a float32
_TORCH_SWITCHES = {"foreach": None, "maximize": False, "differentiable": False}


@dataclass(frozen=True)
class Sgd(OptimizerConfig):
    """``m = momentum * m + g; w -= rate * m`` (Polyak 1964, as torch.optim.SGD).

    Without momentum there is no state: ``w -= rate * g``.
    """

    momentum: float = 0.0
    name: ClassVar[str] = "sgd"

    @property
    def states(self) -> tuple[str, ...]:
        """The running gradient, where there is momentum."""
        return ("momentum_buffer",) if self.momentum else ()

    @property
    def is_additive(self) -> bool:
        """True of plain gradient descent."""
        return not self.momentum and not self.weight_decay

    def scalars(self, rate: float, step: int) -> tuple[float, ...]:
        """Return the learning rate, and the momentum where there is any."""
        return (rate, self.momentum) if self.momentum else (rate,)

    @classmethod
    def element(cls, w: Any, g: Any, states: Any, k: Any, factor: Any) -> Updated:
        """Return elements moved against the gradient, or against the running one."""
        if not states:
            return w - k[0] * g, ()
        m = k[1] * states[0] + g
        return w - k[0] * m, (m,)

    def torch_group(self, rate: float) -> dict[str, Any]:
        """Return the settings of torch.optim.SGD."""
        return {
            "lr": rate,
            "momentum": self.momentum,
            "dampening": 0,
            "weight_decay": self.weight_decay,
            "nesterov": False,
            "maximize": False,
            "foreach": None,
            "differentiable": False,
            "fused": None,
        }


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

    def scalars(self, rate: float, step: int) -> tuple[float, ...]:
        """Return the decayed learning rate and epsilon."""
        return (rate / (1.0 + (step - 1) * self.lr_decay), self.eps)

    @classmethod
    def dense(cls, w: Any, g: Any, states: Any, k: Any) -> Updated:
        """Divide first, as PyTorch does."""
        h = states[0] + g * g
        return w - k[0] * (g / (sqrt(h) + k[1])), (h,)

    @classmethod
    def element(cls, w: Any, g: Any, states: Any, k: Any, factor: Any) -> Updated:
        """Return elements moved with a step size each, and their accumulators."""
        h = states[0] + g * g
        return w - k[0] * g / (sqrt(h) + k[1]), (h,)

    def torch_group(self, rate: float) -> dict[str, Any]:
        """Return the settings of torch.optim.Adagrad."""
        return {**self._torch_constants(rate), **_TORCH_SWITCHES, "fused": None}

    def _torch_constants(self, rate: float) -> dict[str, Any]:
        return {
            "lr": rate,
            "weight_decay": self.weight_decay,
            "lr_decay": self.lr_decay,
            "eps": self.eps,
            "initial_accumulator_value": self.initial_accumulator,
        }


@dataclass(frozen=True)
class RowwiseAdagrad(Adagrad):
    """Adagrad with one sum per row of a table, ``h += mean(g**2)``; on MLPs, Adagrad."""

    name: ClassVar[str] = "rwsadagrad"
    torch_step_is_tensor: ClassVar[bool] = False  # the reference program's own optimizer

    @property
    def table_states(self) -> tuple[str, ...]:
        """None of a table's shape."""
        return ()

    @property
    def row_states(self) -> tuple[str, ...]:
        """The sum of mean squares, under the reference program's name."""
        return ("momentum",)

    @classmethod
    def row(cls, mean_square: Any, states: Any, k: Any) -> Updated:
        """Return the row's step size and its accumulator."""
        h = states[0] + mean_square
        return k[0] / (sqrt(h) + k[1]), (h,)

    @classmethod
    def element(cls, w: Any, g: Any, states: Any, k: Any, factor: Any) -> Updated:
        """Return elements moved with the row's step size."""
        return w - factor * g, ()

    def update_rows(self, w: Any, g: Any, states: Sequence[Any], k: Sequence[float]) -> Updated:
        """Divide first, as ``dense`` does."""
        _, new = self.row((g * g).mean(axis=1, keepdims=True), states, k)
        return w - k[0] * (g / (sqrt(new[0]) + k[1])), new

    def torch_group(self, rate: float) -> dict[str, Any]:
        """Return the settings of the reference program's RWSAdagrad."""
        return self._torch_constants(rate)


@dataclass(frozen=True)
class Adam(OptimizerConfig):
    """Adam (Kingma and Ba 2015), as torch.optim.Adam on MLPs and SparseAdam on tables.

    The two differ in whether the bias is corrected before epsilon is added, or after.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    name: ClassVar[str] = "adam"

    def __post_init__(self) -> None:
        super().__post_init__()
        if max(self.beta1, self.beta2) >= 1.0:
            raise ConfigError(
                f"betas of {self.name} must be below 1, not {self.beta1} and {self.beta2}"
            )

    @property
    def states(self) -> tuple[str, ...]:
        """Both moments."""
        return ("exp_avg", "exp_avg_sq")

    def scalars(self, rate: float, step: int) -> tuple[float, ...]:
        """Return the bias-corrected step size, decay rates and their complements, epsilon."""
        *others, eps = self.row_scalars(rate, step)
        return (*others, eps * (1.0 - self.beta2**step) ** 0.5)

    def row_scalars(self, rate: float, step: int) -> tuple[float, ...]:
        """Return the same with epsilon as it is."""
        size = rate * (1.0 - self.beta2**step) ** 0.5 / (1.0 - self.beta1**step)
        return (size, self.beta1, 1.0 - self.beta1, self.beta2, 1.0 - self.beta2, self.eps)

    @classmethod
    def dense(cls, w: Any, g: Any, states: Any, k: Any) -> Updated:
        """Divide first, as PyTorch does."""
        m, v = cls._moments(g, states, k)
        return w - k[0] * (m / (sqrt(v) + k[5])), (m, v)

    @classmethod
    def element(cls, w: Any, g: Any, states: Any, k: Any, factor: Any) -> Updated:
        """Return elements moved against the first moment, scaled by the second, and both."""
        m, v = cls._moments(g, states, k)
        return w - k[0] * m / (sqrt(v) + k[5]), (m, v)

    @classmethod
    def _moments(cls, g: Any, states: Any, k: Any) -> tuple[Any, Any]:
        return k[1] * states[0] + k[2] * g, k[3] * states[1] + k[4] * (g * g)

    def torch_group(self, rate: float) -> dict[str, Any]:
        """Return the settings of torch.optim.Adam."""
        return {
            "lr": rate,
            "weight_decay": self.weight_decay,
            "betas": (self.beta1, self.beta2),
            "eps": self.eps,
            "amsgrad": False,
            **_TORCH_SWITCHES,
            "capturable": False,
            "fused": None,
            "decoupled_weight_decay": False,
        }


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW.

    ``w`` is multiplied by ``1 - rate * weight_decay`` before the step of Adam, and the decay is no
    part of the gradient. Of tables, rows that a batch does not look up do not decay.
    """

    weight_decay: float = 0.01
    name: ClassVar[str] = "adamw"

    @property
    def l2(self) -> float:
        """None: gradients are taken as they are."""
        return 0.0

    def row_scalars(self, rate: float, step: int) -> tuple[float, ...]:
        """Return what Adam needs, and the factor of the decay before epsilon."""
        *others, eps = super().row_scalars(rate, step)
        return (*others, 1.0 - rate * self.weight_decay, eps)

    @classmethod
    def dense(cls, w: Any, g: Any, states: Any, k: Any) -> Updated:
        """Decay, then divide first, as PyTorch does."""
        return super().dense(w * k[5], g, states, (*k[:5], k[6]))

    @classmethod
    def element(cls, w: Any, g: Any, states: Any, k: Any, factor: Any) -> Updated:
        """Return decayed elements moved as Adam moves them, and both moments."""
        return super().element(w * k[5], g, states, (*k[:5], k[6]), factor)

    def torch_group(self, rate: float) -> dict[str, Any]:
        """Return the settings of torch.optim.AdamW."""
        return super().torch_group(rate) | {"decoupled_weight_decay": True}


@dataclass(frozen=True)
class Ftrl(OptimizerConfig):
    """FTRL-Proximal (McMahan et al., KDD 2013), which sets weights that matter little to zero.

    With ``n += g**2`` and ``d = (beta + sqrt(n)) / rate + l2_strength``, the paper's z is stored as
    ``r = z + w * d``, what ``l1_strength`` cuts off: ``z = r + g - w * d; w = -soft(z) / d``, where
    ``soft`` moves z by ``l1_strength`` towards zero. So a rate that changes moves no weight, and
    weights may start at any value. Without strengths this is Adagrad with ``beta`` for epsilon.
    """

    l1_strength: float = 0.0
    l2_strength: float = 0.0
    beta: float = 1.0
    name: ClassVar[str] = "ftrl"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta == 0.0:
            raise ConfigError("beta of ftrl must be positive, not 0")

    @property
    def states(self) -> tuple[str, ...]:
        """What the threshold cuts off, and the sum of squares."""
        return ("residual", "sum")

    def scalars(self, rate: float, step: int) -> tuple[float, ...]:
        """Return ``1 / rate``, the constant part of d, the threshold and its negative."""
        inverse, threshold = 1.0 / max(rate, _SMALLEST_RATE), self.l1_strength
        return (inverse, self.beta * inverse + self.l2_strength, threshold, -threshold)

    @classmethod
    def element(cls, w: Any, g: Any, states: Any, k: Any, factor: Any) -> Updated:
        """Return elements that minimise the regularised sum of all steps so far."""
        n = states[1] + g * g
        d = k[1] + k[0] * sqrt(n)
        z = states[0] + g - w * d
        above, below = positive_part(z - k[2]), positive_part(k[3] - z)
        return (below - above) / d, (z - above + below, n)


@dataclass(frozen=True)
class Lamb(Adam):
    """LAMB (You et al. 2020): the direction of Adam, as long as the parameter times the rate.

    ``u = m / (sqrt(v) + eps) + weight_decay * w`` of bias-corrected moments;
    ``w -= rate * |w| / |u| * u`` with the norms of a whole weight or bias, where neither is zero.
    It is for dense parameters only: a batch changes few rows of a table, so that the norm of a
    table says nothing about the step of a row.
    """

    eps: float = 1e-6
    weight_decay: float = 0.01
    name: ClassVar[str] = "lamb"
    scales_to_norm: ClassVar[bool] = True

    @property
    def l2(self) -> float:
        """None: the decay is a part of the direction."""
        return 0.0

    def scalars(self, rate: float, step: int) -> tuple[float, ...]:
        """Return both corrections of the bias, decay rates and complements, epsilon, the decay."""
        first, second = 1.0 / (1.0 - self.beta1**step), 1.0 / (1.0 - self.beta2**step)
        betas = (self.beta1, 1.0 - self.beta1, self.beta2, 1.0 - self.beta2)
        return (first, *betas, self.eps, second, self.weight_decay)

    @classmethod
    def dense(cls, w: Any, g: Any, states: Any, k: Any) -> Updated:
        """Return the direction, and both moments."""
        m, v = cls._moments(g, states, k)
        return k[0] * m / (sqrt(k[6] * v) + k[5]) + k[7] * w, (m, v)

    @classmethod
    def element(cls, w: Any, g: Any, states: Any, k: Any, factor: Any) -> Updated:
        """Refuse rows of tables."""
        raise ConfigError(f"{cls.name} is for dense parameters only, not for rows of tables")

    def update_rows(self, w: Any, g: Any, states: Sequence[Any], k: Sequence[float]) -> Updated:
        """Refuse rows of tables."""
        return self.element(w, g, states, k, None)


OPTIMIZERS: Mapping[str, type[OptimizerConfig]] = {
    kind.name: kind for kind in (Sgd, Adagrad, RowwiseAdagrad, Adam, AdamW, Ftrl, Lamb)
}


def optimizer_named(name: str, **constants: float) -> OptimizerConfig:
    """Return the optimizer called ``name`` with these constants, the others at their defaults.

    Raises ConfigError naming the known optimizers if there is none of that name.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"unknown optimizer {name!r}; known are {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name](**constants)
