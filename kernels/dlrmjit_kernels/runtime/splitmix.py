"""Random numbers from counters: any thread can make any of them, in any order."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlrmjit_kernels.runtime.compile import jit

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
SECOND_FACTOR = np.uint64(0x94D049BB133111EB)


@jit
def mix(x: Any) -> Any:
    """The output function of splitmix64 (Steele, Lea, Flood 2014): bits of a uint64 spread."""
    x = (x ^ (x >> np.uint64(30))) * FIRST_FACTOR
    x = (x ^ (x >> np.uint64(27))) * SECOND_FACTOR
    return x ^ (x >> np.uint64(31))


@jit
def draw(stream: Any, number: Any) -> Any:
    """The uint64 ``number`` (0, 1, ...) of a stream."""
    return mix(stream + np.uint64(number + 1) * GOLDEN)
