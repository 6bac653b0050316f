"""Groups the lookups of a bucket by row: a list of rows, and of each the chain of its lookups."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.runtime.compile import jit

_DIRECT = 16  # keys per lookup up to which clearing a slot per key is cheaper than hashing
_U = np.uint64
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@jit
def table_size(lookups: int, keys: int) -> int:
    """Slots to find the rows of a bucket again: one per key if that is few, else a hash table.

    A bucket has ``lookups`` lookups of rows with ``keys`` possible keys. The hash table is at
    most half full.
    """
    if keys <= _DIRECT * lookups:
        return keys
    size = 16
    while size < 2 * lookups:
        size *= 2
    return size


@jit
def group_rows(
    entries: NDArray[np.uint64],
    shift: int,
    keys: int,
    slots: NDArray[np.int32],
    heads: NDArray[np.int32],
    links: NDArray[np.int32],
) -> int:
    """Chain the lookups of every distinct row of ``entries``; how many such rows there are.

    Entries are numbered from 1. ``heads[u]`` is the first lookup of row number ``u``, in order
    of occurrence, and ``links[i]`` the next one of the row of entry ``i``, or 0; ``links[0]`` is
    anything. ``slots`` is a table of :func:`table_size`, cleared here, ``keys`` as there; the
    key of a row is what its ``shift`` low bits leave. ``heads`` needs room for one more than
    there are.
    """
    slots[:] = 0
    mask, direct = _U(len(slots) - 1), len(slots) == keys
    unique, number = _U(0), _U(0)
    while number < _U(len(entries)):  # unsigned throughout: no index is tested for its sign
        row = entries[number] >> _U(32)
        slot = row >> _U(shift)
        if not direct:
            slot = _find(entries, row, ((slot * _GOLDEN) >> _U(40)) & mask, slots, mask)
        last = _U(slots[slot])
        number += _U(1)
        slots[slot] = np.int32(number)
        links[number] = 0
        links[last] = np.int32(number)
        heads[unique] = np.int32(number)
        unique += _U(last == 0)
    return int(unique)


@jit
def _find(
    entries: NDArray[np.uint64], row: Any, slot: Any, slots: NDArray[np.int32], mask: Any
) -> Any:
    """The slot of a row in the hash table, or the free one that it may take."""
    while slots[slot] != 0 and entries[_U(slots[slot]) - _U(1)] >> _U(32) != row:
        slot = (slot + _U(1)) & mask
    return slot
