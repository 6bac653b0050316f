"""Arrays that are handed out again once nobody holds them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_MOST = 32


class Pool:
    """Keeps what it has handed out, and hands it out again when the pool alone refers to it.

    A view keeps its array, so an array that is still seen through any view is not free.
    """

    def __init__(self) -> None:
        self._arrays: dict[tuple[tuple[int, ...], np.dtype[Any]], list[NDArray[Any]]] = {}

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of arbitrary contents that nobody else holds."""
        key = (shape, np.dtype(dtype))
        known = self._arrays.setdefault(key, [])
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
    """What Python counts, looking as above, for an array that only a list holds."""
    known: list[NDArray[Any]] = [np.empty(1)]
    return sys.getrefcount(known[0])


_FREE_REFERENCES = _references_of_free()
