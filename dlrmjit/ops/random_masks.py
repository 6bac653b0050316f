"""What dropout and normalisation of all backends share: random streams, moments.

Rule ``dropout``: inputs x and a :class:`DropoutKey`; options ``rate`` and ``layer``.

Rule ``batch_moments``: input x, whose :class:`BatchMoments` it returns. Rule ``batch_norm``: inputs
x, gamma and beta; in training also the moments to normalise by, and ``sums``, a variable without
data: its gradient are the sums (2, C) over x of the gradients that the input's gradient needs. If
that gradient is asked for, x is a part of a batch, and ``sums`` must have those of the whole batch
as data when the rule goes on. Options ``activation``, which follows, and ``running``: the moments
by which predictions normalise. Training averages them in the backward pass, so that a batch which
the forward pass refuses does not change them; None has others do it. With the option ``residual``
the last input is added before the activation, which stores no slopes then.

Rule ``layer_norm``: inputs x, gamma, beta; option ``activation``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Step
from dlrmjit.errors import ShapeError

EPS = 1e-5
MOMENTUM = 0.1  # share of the newest batch in the averages; both as in torch.nn.BatchNorm1d
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


class DropoutKey(NamedTuple):
    """What a mask depends on: a seed, a step, and the first sample's position in its batch."""

    seed: int = 0
    step: int = 0
    first: int = 0

    def stream(self, layer: int, columns: int) -> int:
        """Return the SplitMix64 stream in which the first sample's row has number 0."""
        start = stream(self.seed, self.step, layer)
        return (start + self.first * columns * _GOLDEN) & _MASK


class BatchMoments(NamedTuple):
    """Number of samples, and mean and biased variance of each column over them, float64 (C,)."""

    rows: int
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    def check(self) -> None:
        """Raise ShapeError if there are no samples."""
        if not self.rows:
            raise ShapeError("a batch without samples has no mean and no variance")


def moments_of(step: Step) -> tuple[BatchMoments, ...]:
    """Return the moments that an application of ``batch_norm`` normalises by: none in inference."""
    has_residual = bool(step.options.get("residual"))
    return step.values[3:4] if len(step.values) - has_residual > 3 else ()


@dataclass
class RunningMoments:
    """Averages over batches of the mean and the unbiased variance of each column, float32."""

    mean: NDArray[Any]
    variance: NDArray[Any]

    @classmethod
    def of(cls, columns: int) -> RunningMoments:
        """Return the moments before the first batch: mean 0, variance 1."""
        return cls(np.zeros(columns, np.float32), np.ones(columns, np.float32))

    def add(self, batch: BatchMoments) -> None:
        """Add the moments of a batch to the averages."""
        rows, mean, variance = batch
        unbiased = variance * (rows / max(rows - 1, 1))
        self.mean += (MOMENTUM * (mean - self.mean)).astype(np.float32)
        self.variance += (MOMENTUM * (unbiased - self.variance)).astype(np.float32)


def stream(seed: int, step: int, layer: int) -> int:
    """Return the SplitMix64 stream, a 64-bit integer, of one layer in one step."""
    mixed = seed & _MASK
    for part in (step, layer):
        mixed = mix((mixed + (part + 1) * _GOLDEN) & _MASK)
    return mixed


def mix(x: int) -> int:
    """Return the output function of SplitMix64 for a Python integer."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def draws(stream: int, elements: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the given elements of a SplitMix64 stream, as uint64."""
    x = (elements + np.uint64(1)) * np.uint64(_GOLDEN) + np.uint64(stream)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def keep_mask(shape: tuple[int, int], rate: float, stream: int) -> NDArray[np.bool_]:
    """Return which elements of a matrix dropout keeps: element r * C + c of the stream decides."""
    bits = draws(stream, np.arange(shape[0] * shape[1], dtype=np.uint64)) >> np.uint64(40)
    keep: NDArray[np.bool_] = (bits >= np.uint64(int(rate * 2**24))).reshape(shape)
    return keep
