"""The norm of the gradient of embedding tables, whose rows are never all there at once.

The gradient of a row is the sum over its lookups, and the square of a sum needs the whole sum.
So the update kernel runs with a rule that moves nothing and leaves the mean square of each
touched row in a column of its own; those are then added and cleared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.embedding import update as embedding_update
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.row_optimizers import Moved, RowRule
from dlrmjit_kernels.runtime.compile import jit

if TYPE_CHECKING:
    from dlrmjit_kernels.embedding.tables import EmbeddingTables


@dataclass(frozen=True)
class SquareRows(RowRule):
    """Notes the mean square of the gradient of every touched row, and leaves the row."""

    lr: float = 0.0
    name: ClassVar[str] = "square"
    row_states: ClassVar[tuple[str, ...]] = ("mean_square",)

    @staticmethod
    def row(mean_square: Any, states: Any, k: Any) -> Moved:
        """Replace the state."""
        return mean_square, (mean_square,)

    @staticmethod
    def element(w: Any, g: Any, states: Any, k: Any, factor: Any) -> Moved:
        """Stay."""
        return w, ()


def gradient_square(
    tables: EmbeddingTables,
    lookups: Lookups,
    dY: NDArray[np.float32],
    memory: embedding_update.RowState,
) -> float:
    """Sum of the squares of the summed gradient of every row, given ``dY`` (N, S, E).

    ``memory`` is what ``tables.new_state(SquareRows())`` makes; it comes back as it was, and
    the tables keep their bits. Raises IndexRangeError for a lookup outside its table, if that is
    what the tables do with it.
    """
    lookups = lookups.within(tables.row_counts, tables.bounds)
    embedding_update.apply(tables, lookups, dY, SquareRows(), memory, "sum", None)
    (squares,) = memory.tables
    flat = [np.asarray(squares.table(s)).reshape(-1) for s in range(len(tables))]
    sums = [
        _take(flat[s], lookups.indices[lookups.offsets[s, 0] : lookups.offsets[s, -1]])
        for s in range(len(tables))
    ]
    return tables.dim * float(np.sum(sums))


@jit
def _take(squares: NDArray[np.float32], indices: NDArray[Any]) -> float:
    """Sum of what ``indices`` point at, every place once; all are zero afterwards."""
    total = 0.0
    for index in indices:
        total += squares[index]
        squares[index] = 0
    return total
