"""First values of embedding tables: from a counter, so that any thread or rank can make any part.

Whoever writes a page first decides on which NUMA node it lies. Rows are looked up at random, so
pages are dealt out to the threads in turn and every node serves its share of the lookups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import get_num_threads, prange
from numpy.typing import NDArray

from dlrmjit.precision import SplitArray
from dlrmjit_kernels.compile import jit, parallel_jit
from dlrmjit_kernels.counter import draw, mix

_PAGE = (2 << 20) // 4  # elements of a huge page


def uniform(table: NDArray[np.float32] | SplitArray, seed: int, number: int) -> None:
    """Fill ``table`` (M, E) with draws from ``(-sqrt(1 / M), sqrt(1 / M))``.

    Element ``i`` in row-major order is splitmix64 of ``i`` (Steele, Lea, Flood 2014) in the
    stream that ``seed`` and ``number`` choose.
    """
    bound = np.float32(np.sqrt(1.0 / table.shape[0]))
    stream = np.uint64(mix(np.uint64((seed + int(mix(np.uint64(number + 1)))) % 2**64)))
    flat = table.reshape(-1)
    if isinstance(flat, SplitArray):
        _uniform_halves(flat.upper, flat.lower, stream, bound, get_num_threads())
    else:
        _uniform(flat, stream, bound, get_num_threads())


def fill(values: NDArray[Any], value: float) -> None:
    """Set all of a flat array."""
    _fill(values, values.dtype.type(value), get_num_threads())


@jit
def _drawn(stream: Any, i: int, bound: Any) -> Any:
    centred = np.int64(draw(stream, i) >> np.uint64(40)) * 2 - 16777215
    return np.float32(centred) * (bound * np.float32(2.0**-24))


@parallel_jit
def _uniform(values: NDArray[np.float32], stream: Any, bound: Any, threads: int) -> None:
    pages = (len(values) + _PAGE - 1) // _PAGE
    for thread in prange(threads):
        for page in range(thread, pages, threads):
            for i in range(page * _PAGE, min((page + 1) * _PAGE, len(values))):
                values[i] = _drawn(stream, i, bound)


@parallel_jit
def _uniform_halves(
    upper: NDArray[np.uint16], lower: NDArray[np.uint16], stream: Any, bound: Any, threads: int
) -> None:
    pages = (len(upper) + _PAGE - 1) // _PAGE
    for thread in prange(threads):
        number = np.empty(1, np.float32)
        bits = number.view(np.uint32)
        for page in range(thread, pages, threads):
            for i in range(page * _PAGE, min((page + 1) * _PAGE, len(upper))):
                number[0] = _drawn(stream, i, bound)
                upper[i], lower[i] = bits[0] >> 16, bits[0] & 0xFFFF


@parallel_jit
def _fill(values: NDArray[Any], value: Any, threads: int) -> None:
    pages = (len(values) + _PAGE - 1) // _PAGE
    for thread in prange(threads):
        for page in range(thread, pages, threads):
            values[page * _PAGE : min((page + 1) * _PAGE, len(values))] = value
