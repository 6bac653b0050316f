"""Gradients of replicated tables: dense sums that travel like those of the MLPs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Parameter
from dlrmjit.ops.backend import Backend, FloatArray
from dlrmjit.parallel.lookup import RecordedLookup

Lookups = tuple[NDArray[Any], NDArray[np.int64]]


class ReplicatedGradient:
    """The gradient of small tables as full arrays, and as one that an optimiser can apply.

    Beside the sums it carries which rows any rank looked up, since optimisers leave others
    alone.
    """

    def __init__(self, backend: Backend, replicated: Parameter) -> None:
        self.parameter = replicated
        rows = replicated.data.rows
        self._sums: Any = backend.tables(rows, replicated.data.dim)
        self._arrays: list[FloatArray] = [self._sums.table(i) for i in range(len(rows))]
        self._touched = [np.zeros(m, backend.dtype) for m in rows]
        self._rows = RecordedLookup(backend, replicated, None)

    def accumulate(self, gradient: Any, lookups: Lookups) -> None:
        """Sum this rank's sparse gradient, of these merged lookups, into the arrays."""
        indices, offsets = lookups
        for i, (array, touched) in enumerate(zip(self._arrays, self._touched, strict=True)):
            array[...] = 0
            touched[...] = 0
            touched[indices[offsets[i, 0] : offsets[i, -1]]] = 1
        gradient.descend(self._sums, -1.0)

    def flat(self) -> list[FloatArray]:
        """The arrays in one dimension, to be summed over ranks."""
        return [array.reshape(-1) for array in (*self._arrays, *self._touched)]

    def sparse(self) -> Any:
        """The sums as a gradient that looks up every row once that any rank looked up."""
        rows = [np.flatnonzero(touched) for touched in self._touched]
        counts = np.array([len(found) for found in rows])
        starts = np.cumsum([0, *counts])[:-1, None]
        bags = np.minimum(np.arange(counts.max() + 1), counts[:, None])
        self._rows.load(np.concatenate(rows).astype(np.int64), starts + bags)
        spread = np.zeros((counts.max(), len(rows), self.parameter.data.dim), self._sums_dtype)
        for i, (array, found) in enumerate(zip(self._arrays, rows, strict=True)):
            spread[: len(found), i] = array[found]
        return self._rows.gradient(spread)

    @property
    def _sums_dtype(self) -> Any:
        return self._arrays[0].dtype
