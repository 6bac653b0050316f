"""The interface of a backend: storage for parameters and activations, one rule per operation.

Models, optimizers and the gradient checker use nothing else. The layout of values in memory is
up to the backend, as long as it can convert them to NumPy arrays and back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from dlrmjit_kernels.embedding.init import Origin as Origin
from numpy.typing import NDArray

from dlrmjit.autograd.runs import Joiner
from dlrmjit.autograd.tape import Rule
from dlrmjit.config.model import IN_MEMORY, TableConfig
from dlrmjit.config.optimizer import OptimizerConfig
from dlrmjit.precision import Precision, SplitArray

FloatArray = NDArray[Any]
StoredArray = NDArray[Any] | SplitArray  # float32 values, or the same as Split-BF16
ArrayForward = Callable[..., Any]
ArrayBackward = Callable[..., Sequence[Any]]


class Lookups(NamedTuple):
    """Lookups of all tables: ``indices``, ``offsets`` (S, N + 1), and a weight per index or None.

    As in a batch, ``offsets[s, n]:offsets[s, n + 1]`` is the bag of sample n in table s.
    """

    indices: NDArray[Any]
    offsets: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None


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
        """Description of the memory that the tables are in."""

    def table(self, number: int) -> StoredArray:
        """Return a writable view of one table (M, d), Split-BF16 if the precision is ``bf16``."""


class Block(Protocol):
    """Buffers in which results of several operations are stored side by side."""

    @property
    def parts(self) -> Sequence[Any]:
        """Buffer of each result, None if its rule allocates it."""

    @property
    def joined_gradient(self) -> Callable[[], Any] | None:
        """Function that returns the buffer of the gradient of the whole block, or None."""


@dataclass
class DenseState:
    """Optimizer state of one dense parameter: values stored as the parameter is; steps taken."""

    values: tuple[Any, ...]
    steps: int = 0


Updated = tuple[Any, Any, DenseState]
"""A dense parameter as it is stored, its gradient, and the state of its optimizer."""


class TableState(Protocol):
    """Optimizer state of tables: tables of the same shape, or of width 1; steps taken."""

    steps: int

    @property
    def tables(self) -> Sequence[Tables]:
        """One set of tables per state, first those of the same shape, then those of width 1."""


class Backend(Protocol):
    """Everything a model needs to run."""

    name: str
    dtype: Any

    @property
    def rules(self) -> Mapping[str, Rule]:
        """The rule of every operation, by name."""

    @property
    def joiner(self) -> Joiner:
        """How the calls of neighbouring operations are joined."""

    def flush_denormals(self) -> AbstractContextManager[None]:
        """Return a context in which the backend may treat denormal numbers as zero."""

    def weight(self, values: FloatArray, precision: Precision = "fp32") -> Any:
        """Store a weight matrix (K, C); of ``bf16``, Split-BF16, rules read the high bits.

        Filters (K, C, R, S) are stored as ``fp32`` only; raises ConfigError.
        """

    def weight_to_numpy(self, stored: Any) -> FloatArray:
        """Return a float copy of a stored weight (K, C), of filters, or of a gradient of either."""

    def assign_weight(self, stored: Any, values: FloatArray) -> None:
        """Overwrite a stored weight, or filters, with values of its shape."""

    def tables(
        self,
        rows: Sequence[int],
        dims: int | Sequence[int],
        precision: Precision = "fp32",
        config: TableConfig = IN_MEMORY,
    ) -> Any:
        """Allocate zeroed tables, of one width or of one width each.

        ``bf16`` is Split-BF16, of which lookups read the high bits.
        """

    def initialise(self, tables: Any, seed: int, origins: Sequence[Origin]) -> None:
        """Draw tables uniformly; an element depends on ``seed`` and its position in the model only.

        ``origins`` say which part of the model each table is. All backends draw the same float32.
        """

    def id_tables(self, rows: Sequence[int], after: int, max_age: int) -> Any:
        """Return tables from 64-bit keys to rows, a ``dlrmjit_kernels.ids.IdTables`` or its like.

        All backends give the same rows.
        """

    def initialise_rows(
        self,
        table: StoredArray,
        rows: NDArray[np.int64],
        keys: NDArray[np.int64],
        seed: int,
        origin: Origin,
    ) -> None:
        """Draw some rows of a table by their keys; all backends draw the same float32."""

    def lookups(self, tables: Any, lookups: Lookups) -> Any:
        """Wrap lookups; indices outside their table are handled as the tables' ``bounds`` say.

        If that is ``raise``, raises IndexRangeError for the first of them, here or in the forward
        pass.
        """

    def matrix(self, values: FloatArray) -> Any:
        """Wrap an activation (N, C), without a copy if possible."""

    def refill(self, previous: Any, values: FloatArray) -> Any:
        """Return ``values`` (N, C) as the input of a tape, in the same buffer for every batch.

        ``previous`` is what this returned for the last batch, of the same shape, or None.
        """

    def to_numpy(self, value: Any) -> FloatArray:
        """Return a copy of an activation (N, C) or of a vector."""

    def block(self, n: int, shapes: Sequence[tuple[int, ...]]) -> Block:
        """Return buffers for results of these shapes per sample, (C,) or (F, E), side by side."""

    def rows(self, n: int, columns: int) -> Any:
        """Return a row-major matrix for a result, or None if rules allocate theirs."""

    def array_rule(self, forward: ArrayForward, backward: ArrayBackward) -> Rule:
        """Return the rule of two functions of NumPy arrays.

        ``forward(*arrays)`` returns the result, ``backward(gradient, *arrays)`` the gradients of
        all arrays, None where there is none. Weights are (K, C).
        """

    def add_gradients(self, memory: dict[str, Any], total: Any, part: Any) -> Any:
        """Return the sum of two gradients of an activation, in a buffer from ``memory``."""

    def flat(self, stored: Any) -> FloatArray:
        """Return a weight, a bias or a gradient as one dimension, without a copy."""

    def new_state(self, stored: Any, config: OptimizerConfig) -> Any:
        """Allocate an optimizer's states: a TableState for tables, a DenseState for others."""

    def update(self, parameters: Sequence[Updated], config: OptimizerConfig, rate: float) -> None:
        """Apply one step of an optimizer to dense parameters and their states, in place."""

    def to_bf16(self, values: FloatArray, bits: NDArray[np.uint16]) -> None:
        """Write values (n,) as BF16, rounded to nearest, ties to even; NaN stays NaN."""

    def from_bf16(self, bits: NDArray[np.uint16], values: FloatArray) -> None:
        """Write BF16 numbers (n,) as floats."""

    def sum_of_squares(self, gradient: Any) -> float:
        """Return the sum of the squares of all elements of a dense gradient."""

    def add(self, total: Any, gradient: Any) -> Any:
        """Add a dense gradient to ``total`` in place; return a copy if ``total`` is None."""

    def scale(self, gradient: Any, factor: float) -> None:
        """Multiply a dense gradient by ``factor``, in place."""
