"""Gradients of replicated tables: dense sums that travel like those of the MLPs."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlrmjit.autograd import Parameter
from dlrmjit.ops.backend import Backend, FloatArray
from dlrmjit.parallel.lookup import Bags


class CopiesGradient:
    """The gradient of small tables as full arrays, and as one that an optimiser can apply."""

    def __init__(self, backend: Backend, copies: Parameter) -> None:
        self.parameter = copies
        rows = copies.data.rows
        self._sums: Any = backend.tables(rows, copies.data.dim)
        self._arrays: list[FloatArray] = [self._sums.table(i) for i in range(len(rows))]
        self._every_row = Bags(backend, copies, None)
        self._every_row.load(*_each_row_once(rows))
        self._spread = np.zeros((max(rows), len(rows), copies.data.dim), backend.dtype)

    def accumulate(self, gradient: Any) -> None:
        """Sum this rank's sparse gradient into the arrays."""
        for array in self._arrays:
            array[...] = 0
        if gradient is not None:
            gradient.descend(self._sums, -1.0)

    def flat(self) -> list[FloatArray]:
        """The arrays in one dimension, to be summed over ranks."""
        return [array.reshape(-1) for array in self._arrays]

    def sparse(self) -> Any:
        """The sums as a gradient that looks up every row once."""
        for i, array in enumerate(self._arrays):
            self._spread[: len(array), i] = array
        return self._every_row.gradient(self._spread)


def _each_row_once(rows: tuple[int, ...]) -> tuple[Any, Any]:
    """Lookups whose bag m of each table is row m, and empty beyond its last row."""
    starts = np.cumsum([0, *rows])
    bags = np.minimum(np.arange(max(rows) + 1), np.array(rows)[:, None])
    indices = np.concatenate([np.arange(m) for m in rows])
    return indices.astype(np.int64), starts[:-1, None] + bags
