"""Parameters seen through the layout in which a backend stores them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dlrmjit.ops.backend import Backend


class WeightView:
    """A weight (K, C) as it is now, whatever its layout in memory.

    ``np.asarray(view)`` and ``view[...]`` read it, and ``view[...] = values`` overwrites it.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, backend: Backend, stored: Any) -> None:
        self._backend, self._stored = backend, stored

    @property
    def shape(self) -> tuple[int, int]:
        """Rows K and columns C."""
        return self._stored.cols, self._stored.rows

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.dtype.itemsize * self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        values = self._backend.weight_to_numpy(self._stored)
        return values if dtype is None else values.astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        part: NDArray[Any] = np.asarray(self)[key]
        return part

    def __setitem__(self, key: Any, values: Any) -> None:
        changed = np.array(self)
        changed[key] = values
        self._backend.assign_weight(self._stored, changed)

    def __repr__(self) -> str:
        return f"WeightView({self.shape[0]} x {self.shape[1]})"
