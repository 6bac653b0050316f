"""Arrays that are reused once nothing else refers to them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_MOST, _MOST_SHAPES = 32, 64


class Pool:
    """Remembers the arrays it returns and returns one again when only the pool refers to it.

    A view refers to its array, so an array with a live view is not free.
    """

    def __init__(self) -> None:
        self._arrays: dict[tuple[tuple[int, ...], np.dtype[Any]], list[NDArray[Any]]] = {}

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array of arbitrary contents that nothing else refers to."""
        key = (shape, np.dtype(dtype))
        known = self._arrays.setdefault(key, [])
        if len(self._arrays) > _MOST_SHAPES:  # batches of lists have any number of rows
            del self._arrays[next(iter(self._arrays))]
        free = _first_free(known)
        if free < len(known):
            return known[free]
        array = np.empty(shape, dtype)
        if len(known) < _MOST:
            known.append(array)
        return array


def _first_free(known: list[NDArray[Any]]) -> int:
    """Return the index of the first array that ``known`` alone holds, or the list's length."""
    for i in range(len(known)):
        if sys.getrefcount(known[i]) == _FREE_REFERENCES:
            return i
    return len(known)


def _references_of_free() -> int:
    """Return the reference count that ``_first_free`` sees for an array held by the list alone."""
    known: list[NDArray[Any]] = [np.empty(1)]
    return sys.getrefcount(known[0])


_FREE_REFERENCES = _references_of_free()
