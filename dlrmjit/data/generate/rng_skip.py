"""Parts of a sequence of random numbers, without drawing the rest.

PCG64 (O'Neill, 2014) can skip any number of its 64-bit outputs. A float64 takes one output; a
float32 takes 32 bits, and the generator stores the other 32 for the next float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SampleRange:
    """Samples ``first`` to ``last`` of ``n``."""

    first: int
    last: int
    n: int


def uniform(
    rng: np.random.Generator, samples: SampleRange, each: int = 1, kind: Any = np.float32
) -> Any:
    """Return ``each`` numbers in [0, 1) for each of ``samples``, in one dimension.

    ``rng``, over a PCG64 or PCG64DXSM, ends in the state it would have after the numbers of all n
    samples. ``kind`` is float32 or float64.
    """
    skip(rng, samples.first * each, kind)
    drawn: NDArray[Any] = rng.random((samples.last - samples.first) * each, dtype=kind)
    skip(rng, (samples.n - samples.last) * each, kind)
    return drawn


def skip(rng: np.random.Generator, count: int, kind: Any) -> None:
    """Advance ``rng`` by ``count`` numbers of a kind."""
    if count == 0:
        return
    bits: Any = rng.bit_generator
    if kind == np.float64:
        before = bits.state
        bits.advance(count)
        # advance() drops the 32 bits stored for the next float32
        stored = {name: before[name] for name in ("has_uint32", "uinteger")}
        bits.state = {**bits.state, **stored}
        return
    if bits.state["has_uint32"]:
        rng.random(dtype=np.float32)
        count -= 1
    if count > 1:
        bits.advance(count // 2)
    if count % 2:
        rng.random(dtype=np.float32)
