"""The interface of gradients of embedding tables, whichever backend computes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dlrmjit.config.optimizer import OptimizerConfig

Rate = float | NDArray[np.float64]
"""A learning rate of all tables, or one for each (S,)."""
G = TypeVar("G", bound="SparseGradient")


class SparseGradient(ABC):
    """A gradient of embedding tables that covers the looked-up rows only and applies itself.

    It is the gradient of a parameter whose ``is_sparse`` is set. ``tables`` below are that
    parameter's data.
    """

    @abstractmethod
    def descend(self, tables: Any, rate: float) -> None:
        """Plain SGD on the looked-up rows: ``W[i] -= rate * sum of dY over i``."""

    @abstractmethod
    def update(self, tables: Any, state: Any, config: OptimizerConfig, rate: Rate) -> None:
        """Apply one step of an optimizer to the looked-up rows and their states, in place.

        Of rates of single tables, one that is 0 leaves rows and states as they are.
        """

    @abstractmethod
    def sum_of_squares(self, tables: Any, scratch: dict[str, Any]) -> float:
        """Return the sum of the squares of all elements; ``tables`` do not change.

        ``scratch`` is a dictionary for these tables, in which working memory is reused.
        """

    @abstractmethod
    def mean_squares(self, tables: Any, means: Any, weight_decay: float) -> None:
        """Write the mean square of each looked-up row, decay included, to ``means`` of width 1."""

    @abstractmethod
    def scale(self, factor: float) -> None:
        """Multiply by ``factor``, in place."""

    @abstractmethod
    def merged(self: G, *others: G) -> G:
        """Return a copy of this gradient and those of other batches as that of one large batch."""

    @abstractmethod
    def to_dense(self, tables: Any) -> list[NDArray[Any]]:
        """Return the same gradient as full arrays, one shaped like each table; for checks."""
