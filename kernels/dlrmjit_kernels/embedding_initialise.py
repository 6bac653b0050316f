"""First values of embedding tables: from a counter, so that any thread or rank can make any part.

Whoever writes a page first decides on which NUMA node it lies. Rows are looked up at random, so
pages are dealt out to the threads in turn and every node serves its share of the lookups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import get_num_threads, prange
from numpy.typing import NDArray

from dlrmjit_kernels.compile import parallel_jit
from dlrmjit_kernels.counter import draw, mix

_PAGE = (2 << 20) // 4  # elements of a huge page


def uniform(table: NDArray[np.float32], seed: int, number: int) -> None:
    """Fill ``table`` (M, E) with draws from ``(-sqrt(1 / M), sqrt(1 / M))``.

    Element ``i`` in row-major order is splitmix64 of ``i`` (Steele, Lea, Flood 2014) in the
    stream that ``seed`` and ``number`` choose.
    """
    bound = np.float32(np.sqrt(1.0 / table.shape[0]))
    stream = mix(np.uint64((seed + int(mix(np.uint64(number + 1)))) % 2**64))
    _uniform(table.reshape(-1), np.uint64(stream), bound, get_num_threads())


def fill(values: NDArray[np.float32], value: float) -> None:
    """Set all of a flat array."""
    _fill(values, np.float32(value), get_num_threads())


@parallel_jit
def _uniform(values: NDArray[np.float32], stream: Any, bound: Any, threads: int) -> None:
    pages = (len(values) + _PAGE - 1) // _PAGE
    scale = bound * np.float32(2.0**-23)
    for thread in prange(threads):
        for page in range(thread, pages, threads):
            for i in range(page * _PAGE, min((page + 1) * _PAGE, len(values))):
                drawn = draw(stream, i)
                centred = np.int64(drawn >> np.uint64(40)) * 2 - 16777215
                values[i] = np.float32(centred) * (scale * np.float32(0.5))


@parallel_jit
def _fill(values: NDArray[np.float32], value: Any, threads: int) -> None:
    pages = (len(values) + _PAGE - 1) // _PAGE
    for thread in prange(threads):
        for page in range(thread, pages, threads):
            values[page * _PAGE : min((page + 1) * _PAGE, len(values))] = value
