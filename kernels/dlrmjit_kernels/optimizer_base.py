"""What every optimizer has: the base class, and the functions that its arithmetic is written over.

The arithmetic supports ``+ - * /``, :func:`sqrt` and :func:`positive_part`: of vectors in
registers when a kernel is generated, or of NumPy arrays. It must take its constants from ``k``, not
from the optimizer: one kernel serves all constants.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from dlrmjit_kernels.errors import ConfigError

Updated = tuple[Any, Sequence[Any]]
"""New values, and the new states in their order."""


def sqrt(x: Any) -> Any:
    """Return the square root of a vector of a kernel or of a NumPy value."""
    if hasattr(x, "sqrt"):
        return x.sqrt()
    import numpy as np  # here, so that a command line may read the names without loading NumPy

    return np.sqrt(x)


def positive_part(x: Any) -> Any:
    """Return the larger of ``x`` and 0, NaN where ``x`` is."""
    if hasattr(x, "positive_part"):
        return x.positive_part()
    import numpy as np

    return np.maximum(x, 0)


def norm_ratio(parameter: float, direction: float) -> float:
    """Return the quotient of two norms, given their squares; 1 if either is zero."""
    return math.sqrt(parameter / direction) if parameter > 0 and direction > 0 else 1.0


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer without its learning rate: the base class of all.

    ``l2 * w`` is added to every gradient before the arithmetic sees it; that is the weight decay,
    unless an optimizer applies it in another way. On
    embedding tables every optimizer is lazy: rows that a batch does not look up keep their values
    and their states, decay included.

    There are at most two states, all of the parameter's shape or, of a table, all of one value
    per row.
    """

    weight_decay: float = 0.0
    name: ClassVar[str]
    torch_step_is_tensor: ClassVar[bool] = True
    """Whether this optimizer's count of steps is a tensor in a PyTorch checkpoint, or an int."""
    scales_to_norm: ClassVar[bool] = False
    """Whether ``dense`` returns a direction instead of new elements.

    The step along it is as long as the whole parameter, times the learning rate. Tables have no
    such step.
    """

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            if not value >= 0:
                raise ConfigError(f"{key} of {self.name} must not be negative, not {value}")

    @property
    def l2(self) -> float:
        """The factor of ``w`` that is added to every gradient."""
        return self.weight_decay

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states of a dense parameter, as in checkpoints and in PyTorch."""
        return ()

    @property
    def table_states(self) -> tuple[str, ...]:
        """Names of the states of a table that have the table's shape."""
        return self.states

    @property
    def row_states(self) -> tuple[str, ...]:
        """Names of the states of a table that have one value per row."""
        return ()

    @property
    def row_scratch(self) -> tuple[str, ...]:
        """Values per row that follow ``row_states`` and serve one step only."""
        return ()

    @property
    def initial_state(self) -> float:
        """Initial value of every state."""
        return 0.0

    @property
    def is_additive(self) -> bool:
        """Whether a row may be updated lookup by lookup, without summing its gradient first."""
        return False

    def scalars(self, rate: float, step: int) -> tuple[float, ...]:
        """Return ``k``, the values that ``dense`` needs in step 1, 2, ..."""
        return (rate,)

    def row_scalars(self, rate: float, step: int) -> tuple[float, ...]:
        """Return ``k``, the values that ``row`` and ``element`` need in step 1, 2, ..."""
        return self.scalars(rate, step)

    @classmethod
    def dense(cls, w: Any, g: Any, states: Any, k: Any) -> Updated:
        """Return new elements and states of a dense parameter."""
        return cls.element(w, g, states, k, None)

    @classmethod
    def element(cls, w: Any, g: Any, states: Any, k: Any, factor: Any) -> Updated:
        """Return new elements of a table row, and new states of the table's shape."""
        raise NotImplementedError

    @classmethod
    def row(cls, mean_square: Any, states: Any, k: Any) -> Updated:
        """Return the factor that ``element`` receives, and new row states.

        ``mean_square`` is that of the row's gradient. Only called where there are row states.
        """
        raise NotImplementedError

    def update_rows(self, w: Any, g: Any, states: Sequence[Any], k: Sequence[float]) -> Updated:
        """Return new table rows (R, E) and their states, (R, E) or (R, 1), as NumPy arrays.

        ``g`` is the gradient (R, E), decay included, ``k`` what ``row_scalars`` returned.
        """
        if not self.row_states:
            return self.dense(w, g, states, k)
        factor, new = self.row((g * g).mean(axis=1, keepdims=True), states, k)
        return self.element(w, g, (), k, factor)[0], new

    def shared(self) -> OptimizerConfig:
        """Return this optimizer for ranks that store some of a row's columns each.

        Its ``row_scratch`` is the mean square of the gradient over all columns, to be filled in
        before the step.
        """
        return _shared(type(self))(**asdict(self))  # type: ignore[arg-type]

    def torch_group(self, rate: float) -> dict[str, Any]:
        """Return the entry of PyTorch's ``param_groups`` for the same optimizer."""
        return {"lr": rate, **asdict(self)}

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {"name": self.name, **asdict(self)}


@functools.cache
def _shared(kind: type[OptimizerConfig]) -> type[OptimizerConfig]:
    """Return the class whose rows take their mean square from ``row_scratch``."""

    class Shared(kind):  # type: ignore[valid-type,misc]
        @property
        def row_scratch(self) -> tuple[str, ...]:
            return ("mean_square",)

        @classmethod
        def row(cls, mean_square: Any, states: Any, k: Any) -> Updated:
            *own, total = states
            factor, new = kind.row(total, own, k)
            return factor, (*new, total)

    Shared.__name__ = Shared.__qualname__ = f"Shared{kind.__name__}"
    return Shared
