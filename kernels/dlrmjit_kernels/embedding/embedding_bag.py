"""The lookup alone, over tables that are ordinary arrays of the caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.embedding import forward
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.storage import Float32, TableStorage
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.runtime.access import Access
from dlrmjit_kernels.runtime.operands import (
    FLOAT32,
    check_array,
    check_disjoint,
    check_ndarray,
)
from dlrmjit_kernels.runtime.workspace import Workspace


class BorrowedTables(TableStorage):
    """Tables over C-contiguous float32 arrays (M, E) that the caller allocated.

    Raises ShapeError for arrays of another dtype or layout, or of different widths.
    """

    def __init__(self, arrays: Sequence[Float32], bounds: str = "raise") -> None:
        for s, array in enumerate(arrays):
            check_array(f"table {s} (M, E)", array, FLOAT32, 2)
            if array.shape[1] == 0:
                raise ShapeError(f"table {s} has rows without elements")
            if array.shape[1] != arrays[0].shape[1]:
                raise ShapeError(
                    f"table {s} has rows of {array.shape[1]} elements, table 0 of "
                    f"{arrays[0].shape[1]}; look tables of different widths up separately"
                )
        self._arrays, self._path, self._nodes = list(arrays), None, 1
        self._directory = None
        self.rows = tuple(len(array) for array in arrays)
        self.dim = int(arrays[0].shape[1]) if arrays else 1
        self.bounds, self.split = bounds, False
        self.workspace = Workspace()
        self.access = Access("these tables")
        self.addresses = np.array([array.ctypes.data for array in arrays], np.int64)
        self.low_addresses = self.addresses
        self.row_counts = np.array(self.rows, np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return sum(array.nbytes for array in self._arrays)

    @property
    def pages(self) -> str:
        """``borrowed``: the caller chose the memory."""
        return "borrowed"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ([array.copy() for array in self._arrays], self.bounds)

    def __deepcopy__(self, memo: dict[int, Any]) -> BorrowedTables:
        return BorrowedTables([array.copy() for array in self._arrays], self.bounds)

    def table(self, s: int) -> Float32:
        """Return the array of table ``s``."""
        return self._arrays[s]


def embedding_bag(
    tables: Sequence[Float32],
    indices: NDArray[Any],
    offsets: NDArray[np.int64],
    *,
    out: Float32 | None = None,
    pooling: str = "sum",
    weights: Float32 | None = None,
) -> Float32:
    """Pool every bag of every table: (N, S, E), zero for empty bags.

    Parameters
    ----------
    tables : S arrays (M, E), C-contiguous float32
    indices : rows to look up, int32 or int64, all bags of table 0, then of table 1, ...
    offsets : int64 (S, N + 1); ``offsets[s, n]:offsets[s, n + 1]`` of ``indices`` is a bag
    out : where to write, (N, S, E) with unit stride along E; by default a new array
    pooling : ``sum`` or ``mean``
    weights : float32, one per index, scaling its row

    Raises
    ------
    IndexRangeError
        For the first index outside its table.
    ShapeError
        If shapes or dtypes do not match.
    """
    borrowed = BorrowedTables(tables)
    lookups = Lookups.checked(indices, offsets, len(borrowed), weights)
    if out is None:
        out = np.empty((offsets.shape[1] - 1, len(tables), borrowed.dim), np.float32)
    else:
        check_ndarray("out", out)
        check_disjoint("out", out, indices=indices, offsets=offsets, weights=weights)
        check_disjoint("out", out, **{f"table {s}": table for s, table in enumerate(tables)})
    forward.pool(borrowed, lookups, out, pooling)
    return out
