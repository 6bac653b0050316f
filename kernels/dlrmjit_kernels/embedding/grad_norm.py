"""The norm of the gradient of embedding tables, whose summed rows are never stored.

The gradient of a row is the sum over its lookups, and the square of a sum needs the whole sum.
So the update kernel runs with a rule that changes no row and writes the mean square of each
touched row's gradient to a table of one column; those are then added up and cleared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.embedding import update
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.row_optimizers import RowRule
from dlrmjit_kernels.embedding.storage import TableStorage
from dlrmjit_kernels.optimizers import OptimizerConfig, Updated
from dlrmjit_kernels.runtime.compile import jit


@dataclass(frozen=True)
class _MeanSquare(OptimizerConfig):
    """No optimizer: stores the mean square of the gradient of every touched row."""

    name: ClassVar[str] = "square"

    @property
    def row_states(self) -> tuple[str, ...]:
        """The mean square."""
        return ("mean_square",)

    @classmethod
    def row(cls, mean_square: Any, states: Any, k: Any) -> Updated:
        """Return the mean square as the new state."""
        return mean_square, (mean_square,)

    @classmethod
    def element(cls, w: Any, g: Any, states: Any, k: Any, factor: Any) -> Updated:
        """Return the elements unchanged."""
        return w, ()


class SquareRows(RowRule):
    """Stores the mean square of the gradient of every touched row, and leaves the row as it is."""

    def __init__(self, l2: float = 0.0) -> None:
        super().__init__(_MeanSquare(l2), 0.0)


def gradient_square(
    tables: TableStorage,
    lookups: Lookups,
    dY: NDArray[np.float32],
    state: update.RowState,
    pooling: str = "sum",
) -> float:
    """Return the sum of the squares of every row's summed gradient, given ``dY`` (N, S, E).

    ``state`` is what ``new_state(tables, SquareRows())`` makes; it is zero again afterwards, and
    the tables do not change. Raises IndexRangeError for a lookup outside its table, if the
    tables' bounds say ``raise``.
    """
    lookups = lookups.within(tables.row_counts, tables.bounds)
    update.apply(tables, lookups, dY, SquareRows(), state, pooling)
    (squares,) = state.tables
    flat = [np.asarray(squares.table(s)).reshape(-1) for s in range(len(tables))]
    sums = [
        _sum_and_clear(flat[s], lookups.indices[lookups.offsets[s, 0] : lookups.offsets[s, -1]])
        for s in range(len(tables))
    ]
    return tables.dim * float(np.sum(sums))


@jit
def _sum_and_clear(squares: NDArray[np.float32], indices: NDArray[Any]) -> float:
    """Return the sum of the elements at ``indices``, each counted once, and set them to zero."""
    total = 0.0
    for index in indices:
        total += squares[index]
        squares[index] = 0  # so that the next lookup of the row adds nothing
    return total
