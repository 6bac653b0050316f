"""Random orders that need no memory: keys of rows, and permutations computed point by point.

Both depend on a seed alone, so an order does not change with the number of workers, the memory,
or the row at which an interrupted run resumes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.runtime.compile import jit
from dlrmjit_kernels.runtime.splitmix import GOLDEN, mix

Integer = Any

_ROUNDS = 6


@jit
def row_key(seed: Integer, row: Integer) -> Integer:
    """Return the 64-bit key of a row; under one seed, no two rows have the same."""
    return mix(mix(np.uint64(seed) * GOLDEN + GOLDEN) + (np.uint64(row) + np.uint64(1)) * GOLDEN)


@jit
def row_keys(seed: Integer, first: Integer, keys: NDArray[np.uint64]) -> None:
    """Write the keys of rows ``first``, ``first + 1``, ...; the order of ``seed`` sorts by key."""
    for i in range(keys.size):
        keys[i] = row_key(seed, first + i)


@jit
def half_width(n: Integer) -> int:
    """Return the bits of one half of the Feistel network for numbers below ``n``."""
    half = 1
    while (1 << (2 * half)) < n:
        half += 1
    return half


@jit
def permuted(i: Integer, n: Integer, seed: Integer, half: Integer) -> Integer:
    """Return the image of ``i`` under a random permutation of ``range(n)``.

    ``half`` is :func:`half_width` of n. A Feistel network on the smallest even number of bits is
    applied until the result is below ``n``: cycle walking (Black and Rogaway, Ciphers with
    arbitrary finite domains, 2002).
    """
    mask = np.uint64((1 << half) - 1)
    bits = np.uint64(half)
    x = np.uint64(i)
    while True:
        left, right = x >> bits, x & mask
        for r in range(_ROUNDS):
            counter = right + np.uint64(r + 1) * (mask + np.uint64(1))
            word = mix(np.uint64(seed) + counter * GOLDEN)
            left, right = right, left ^ (word & mask)
        x = (left << bits) | right
        if x < np.uint64(n):
            return x
