"""SplitMix64 (Steele, Lea, Flood 2014): random numbers computed from a counter.

Any thread can compute any number of a stream, in any order, so a result does not depend on how
work is partitioned.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dlrmjit_kernels.runtime.compile import jit

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio, odd: its multiples spread evenly over 64 bits."""
FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
SECOND_FACTOR = np.uint64(0x94D049BB133111EB)


@jit
def mix(x: Any) -> Any:
    """Return the output function of SplitMix64, a bijection that scatters the bits of a uint64."""
    x = (x ^ (x >> np.uint64(30))) * FIRST_FACTOR
    x = (x ^ (x >> np.uint64(27))) * SECOND_FACTOR
    return x ^ (x >> np.uint64(31))


@jit
def draw(stream: Any, number: Any) -> Any:
    """Return the uint64 ``number`` (0, 1, ...) of a stream."""
    return mix(stream + np.uint64(number + 1) * GOLDEN)
