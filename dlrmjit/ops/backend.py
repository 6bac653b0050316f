"""What a backend is: storage for parameters and activations, and one rule per operation.

Models, optimisers and the gradient checker see only this. How values are laid out in memory
is a backend's own matter, as long as it can turn them into NumPy arrays and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from dlrmjit_kernels.embedding.init import Origin as Origin
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Rule
from dlrmjit.config.model import IN_MEMORY, TableConfig
from dlrmjit.config.optimizer import OptimizerConfig
from dlrmjit.precision import Precision, SplitArray

FloatArray = NDArray[Any]
StoredArray = NDArray[Any] | SplitArray  # values of float32 precision, whole or in halves
Lookups = tuple[NDArray[Any], NDArray[np.int64]]  # merged (indices, offsets (S, N+1))


class Tables(Protocol):
    """Storage of S embedding tables, which may differ in width."""

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows M of each table."""

    @property
    def dim(self) -> int:
        """Columns of the widest table."""

    @property
    def placement(self) -> str:
        """In words, what the tables lie on."""

    def table(self, number: int) -> StoredArray:
        """A writable view of one table (M, its width), in halves where precision is ``bf16``."""


class Features(Protocol):
    """Where the interacting vectors of a batch meet; None members mean "allocate yourself"."""

    dense: Any
    pooled: Any
    joined_gradient: Any


@dataclass
class DenseState:
    """What an optimiser remembers of one dense parameter: values stored as it is; steps taken."""

    values: tuple[Any, ...]
    steps: int = 0


class TableState(Protocol):
    """What an optimiser remembers of tables: others shaped like them, or of width 1; steps."""

    steps: int

    @property
    def tables(self) -> Sequence[Tables]:
        """One set of tables per state, first those of the tables' width, then those of 1."""


class Backend(Protocol):
    """Everything a model needs to run; see the module's docstring."""

    name: str
    dtype: Any
    rules: Mapping[str, Rule]

    def flush_denormals(self) -> AbstractContextManager[None]:
        """A block in which the backend may take denormal numbers for zero."""

    def weight(self, values: FloatArray, precision: Precision = "fp32") -> Any:
        """Store a weight matrix (K, C); in ``bf16`` as halves, of which rules read the upper."""

    def weight_to_numpy(self, stored: Any) -> FloatArray:
        """A copy (K, C) of a stored weight, halves joined, or of its gradient."""

    def assign_weight(self, stored: Any, values: FloatArray) -> None:
        """Overwrite a stored weight with (K, C) values."""

    def tables(
        self,
        rows: Sequence[int],
        dims: int | Sequence[int],
        precision: Precision = "fp32",
        config: TableConfig = IN_MEMORY,
    ) -> Any:
        """Allocate zeroed tables of one width or of one each.

        In ``bf16`` as halves, of which lookups read the upper.
        """

    def initialise(self, tables: Any, seed: int, origins: Sequence[Origin]) -> None:
        """Draw tables uniformly; an element depends on ``seed`` and its place in the model alone.

        ``origins`` say which part of the model each table is. All backends draw the same float32.
        """

    def lookups(self, tables: Any, indices: NDArray[Any], offsets: NDArray[np.int64]) -> Any:
        """Wrap lookups; what is outside its table goes by the tables' ``bounds``.

        Raises IndexRangeError for the first such lookup, here or when it is looked up.
        """

    def matrix(self, values: FloatArray) -> Any:
        """Wrap an activation (N, C), without a copy where possible."""

    def refill(self, held: Any, values: FloatArray) -> Any:
        """An activation (N, C) of these values, that a tape takes one batch after the other.

        ``held`` is what this returned for the batch before, of the same shape, else None.
        """

    def to_numpy(self, value: Any) -> FloatArray:
        """A copy of an activation (N, C) or of a vector."""

    def probabilities(self, logits: Any, threshold: float) -> FloatArray:
        """Sigmoid of logits (N, 1), clamped to [threshold, 1 - threshold], (N,)."""

    def features(self, n: int, features: int, dim: int, dense: bool = True) -> Features:
        """Room for the F vectors of N samples, of which ``dense`` says whether one is x."""

    def flat(self, stored: Any) -> FloatArray:
        """All of a weight, a bias or its gradient as one dimension, without a copy."""

    def new_state(self, stored: Any, config: OptimizerConfig) -> Any:
        """Fresh memory of an optimiser: a TableState for tables, a DenseState for others."""

    def update(
        self, stored: Any, gradient: Any, state: DenseState, config: OptimizerConfig, rate: float
    ) -> None:
        """One step of an optimiser on a dense parameter and its state, in place."""

    def square(self, gradient: Any) -> float:
        """Sum of the squares of all elements of a dense gradient."""

    def add(self, total: Any, gradient: Any) -> Any:
        """``total`` plus a dense gradient, in place; a copy where ``total`` is None."""

    def scale(self, gradient: Any, factor: float) -> None:
        """Multiply a dense gradient by ``factor``, in place."""
