"""Gradients of replicated tables, summed over ranks as dense arrays like those of the MLPs."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlrmjit.autograd.sparse_gradient import SparseGradient
from dlrmjit.autograd.tape import Parameter
from dlrmjit.ops.backend import Backend, FloatArray, Lookups
from dlrmjit.parallel.lookup import LookupGradient, RecordedLookup
from dlrmjit.parallel.plan import one_width


class ReplicatedGradient:
    """The gradient of the replicated tables: as dense arrays to sum, and as a sparse gradient.

    The sums include a marker per row that any rank looked up, because optimizers do not change
    other rows.
    """

    def __init__(self, backend: Backend, replicated: Parameter) -> None:
        self.parameter = replicated
        rows = replicated.data.rows
        dims = [replicated.data.table(i).shape[1] for i in range(len(rows))]
        self._sums: Any = backend.tables(rows, one_width(dims))
        self._arrays: list[FloatArray] = [self._sums.table(i) for i in range(len(rows))]
        self._touched = [np.zeros(m, backend.dtype) for m in rows]
        self._lookup = RecordedLookup(backend, replicated, None)

    def assign(self, gradient: LookupGradient) -> None:
        """Overwrite the arrays by this rank's sparse gradient and the rows of its lookups."""
        indices, offsets, _ = gradient.lookups
        for i, (array, touched) in enumerate(zip(self._arrays, self._touched, strict=True)):
            array[...] = 0
            touched[...] = 0
            touched[indices[offsets[i, 0] : offsets[i, -1]]] = 1
        gradient.gradient.descend(self._sums, -1.0)

    def flat(self) -> list[FloatArray]:
        """Return the arrays in one dimension, to be summed over ranks."""
        return [array.reshape(-1) for array in (*self._arrays, *self._touched)]

    def sparse(self) -> SparseGradient:
        """Return the sums as a sparse gradient: one lookup of every row that any rank looked up."""
        rows = [np.flatnonzero(touched) for touched in self._touched]
        counts = np.array([len(table_rows) for table_rows in rows])
        starts = np.cumsum([0, *counts])[:-1, None]
        # One lookup per bag; tables with fewer rows than others have empty bags at the end.
        bags = np.minimum(np.arange(counts.max() + 1), counts[:, None])
        self._lookup.load(Lookups(np.concatenate(rows).astype(np.int64), starts + bags))
        shape = (counts.max(), len(rows), self.parameter.data.dim)
        pooled = np.zeros(shape, self._arrays[0].dtype)
        for i, (array, table_rows) in enumerate(zip(self._arrays, rows, strict=True)):
            pooled[: len(table_rows), i, : array.shape[1]] = array[table_rows]
        return self._lookup.gradient(pooled)
