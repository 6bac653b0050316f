"""Arrays that a repeated call reuses: they grow with the largest batch and are never shrunk.

Fresh pages cost a fault each, and a training step needs the same few arrays every time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.runtime import buffers

T = TypeVar("T")


@dataclass
class Workspace:
    """Named arrays that are reused from call to call."""

    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    _made: dict[Hashable, tuple[Hashable, Any]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def get(self, name: str, size: int, dtype: Any) -> NDArray[Any]:
        """Return an array of at least ``size`` elements, whose contents are undefined."""
        array = self.arrays.get(name)
        if array is None or array.size < size:
            array = buffers.allocate(_capacity(size) * np.dtype(dtype).itemsize).data.view(dtype)
            self.arrays[name] = array
        return array

    def cached(self, name: Hashable, sizes: Hashable, make: Callable[[], T]) -> T:
        """Return what ``make`` returned for ``name``; it is called again if ``sizes`` differ."""
        entry = self._made.get(name)
        if entry is None or entry[0] != sizes:
            entry = self._made[name] = sizes, make()
        made: T = entry[1]
        return made


def _capacity(size: int) -> int:
    """Allocate a quarter more than asked, so that slowly growing batches rarely reallocate."""
    return size + size // 4 + 64
