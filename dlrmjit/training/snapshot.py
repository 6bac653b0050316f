"""A copy of the arrays that a save needs, so that training goes on while they are written.

Copying takes a tenth of the time of hashing and writing. The memory is used again by the next save.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from dlrmjit_kernels.runtime.threads import get_threads, reset_affinity
from numpy.typing import NDArray

from dlrmjit.checkpoint.safetensors_file import row_blocks
from dlrmjit.data.stored.npz import free_bytes
from dlrmjit.ops.backend import StoredArray
from dlrmjit.precision import SplitArray

_SHARE = 0.5  # of the free memory that a snapshot may take


class Snapshot:
    """Memory for one copy of named arrays, taken when it is first needed."""

    def __init__(self) -> None:
        self._copies: dict[str, NDArray[Any]] = {}
        self._fits: bool | None = None

    def fits(self, arrays: Mapping[str, StoredArray]) -> bool:
        """Return whether there is memory for a copy of ``arrays``; decided once."""
        if self._fits is None:
            needed = sum(array.nbytes for array in arrays.values())
            self._fits = needed <= _SHARE * free_bytes()
        return self._fits

    def copy(self, arrays: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
        """Return copies of ``arrays``, made by all threads; they are valid until the next call."""
        copies: dict[str, StoredArray] = {}
        parts: list[tuple[Any, Any]] = []
        for name, array in arrays.items():
            if isinstance(array, SplitArray):
                high, low = (self._of(f"{name}.{i}", a) for i, a in enumerate(_halves(array)))
                copies[name] = SplitArray(high, low)
                parts += [*zip((high, low), _halves(array), strict=True)]
            else:
                copy = copies[name] = self._of(name, array)
                parts.append((copy, array))
        blocks = [
            pair
            for target, source in parts
            for pair in zip(row_blocks(target), row_blocks(source), strict=True)
        ]
        with ThreadPoolExecutor(get_threads(), initializer=reset_affinity) as pool:
            list(pool.map(lambda pair: np.copyto(pair[0], pair[1]), blocks))
        return copies

    def _of(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """Return the memory for a copy of ``array``."""
        known = self._copies.get(name)
        if known is None or (known.shape, known.dtype) != (array.shape, array.dtype):
            known = self._copies[name] = np.empty(array.shape, array.dtype)
        return known


def _halves(array: SplitArray) -> tuple[NDArray[Any], NDArray[Any]]:
    return array.high, array.low
