"""What dropout and batch normalisation of all backends share: streams, moments, options.

Rule ``dropout``: inputs x and a moment, ``(seed, step)``; options ``rate`` and ``layer``. Rule
``batch_norm``: inputs x, gamma, beta; options ``running``, the averages of moments, and
``training``, whether those of the batch are used and averaged; ReLU follows. Averages move in
the backward pass, so that a batch which the forward pass refuses leaves them alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

EPS = 1e-5
MOMENTUM = 0.1  # share of the newest batch in the averages; both as in torch.nn.BatchNorm1d
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass
class RunningMoments:
    """Averages over batches of the mean and the unbiased variance of each column, float32."""

    mean: NDArray[Any]
    variance: NDArray[Any]

    @classmethod
    def of(cls, columns: int) -> RunningMoments:
        """Those of no batch yet."""
        return cls(np.zeros(columns, np.float32), np.ones(columns, np.float32))

    def add(self, mean: NDArray[Any], variance: NDArray[Any], rows: int) -> None:
        """Average in a batch of ``rows`` samples, given its biased variance."""
        unbiased = variance * (rows / max(rows - 1, 1))
        self.mean += (MOMENTUM * (mean - self.mean)).astype(np.float32)
        self.variance += (MOMENTUM * (unbiased - self.variance)).astype(np.float32)


def stream(seed: int, step: int, layer: int) -> int:
    """The number of a stream of splitmix64 for one layer in one step."""
    mixed = seed & _MASK
    for part in (step, layer):
        mixed = mix((mixed + (part + 1) * _GOLDEN) & _MASK)
    return mixed


def mix(x: int) -> int:
    """The output function of splitmix64."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def drawn(number: int, elements: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Elements 0, 1, ... of a stream of splitmix64."""
    x = (elements + np.uint64(1)) * np.uint64(_GOLDEN) + np.uint64(number)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def kept(shape: tuple[int, int], rate: float, number: int) -> NDArray[np.bool_]:
    """Which elements of a matrix dropout keeps: number r * C + c of the stream decides."""
    bits = drawn(number, np.arange(shape[0] * shape[1], dtype=np.uint64)) >> np.uint64(40)
    keep: NDArray[np.bool_] = (bits >= np.uint64(int(rate * 2**24))).reshape(shape)
    return keep
