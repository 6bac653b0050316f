"""Batch normalisation of one hidden layer: its parameters and its running moments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dlrmjit.autograd.tape import Parameter
from dlrmjit.ops.backend import FloatArray, StoredArray
from dlrmjit.ops.random_masks import RunningMoments


class Norm:
    """Scale and shift of ``columns`` outputs, and the moments by which predictions normalise."""

    def __init__(self, name: str, columns: int, dtype: Any) -> None:
        self.gamma = Parameter(np.ones(columns, dtype), f"{name}.weight")
        self.beta = Parameter(np.zeros(columns, dtype), f"{name}.bias")
        self.running = RunningMoments.of(columns)
        self._name = name

    def reset(self) -> None:
        """Restore the initial scale, shift and moments."""
        self.gamma.data[...], self.beta.data[...] = 1, 0
        self.running.mean[...], self.running.variance[...] = 0, 1

    def moments(self) -> tuple[FloatArray, FloatArray]:
        """Return copies of the moments, for :meth:`restore`."""
        return self.running.mean.copy(), self.running.variance.copy()

    def restore(self, moments: tuple[FloatArray, FloatArray]) -> None:
        """Put back earlier moments."""
        self.running.mean[...], self.running.variance[...] = moments

    def arrays(self) -> dict[str, FloatArray]:
        """Return parameters and moments, not copied, under PyTorch's names."""
        return {
            self.gamma.name: self.gamma.data,
            self.beta.name: self.beta.data,
            f"{self._name}.running_mean": self.running.mean,
            f"{self._name}.running_var": self.running.variance,
        }

    def state(self) -> dict[str, FloatArray]:
        """Return copies of parameters and moments, under PyTorch's names."""
        return {name: array.copy() for name, array in self.arrays().items()}

    def load(self, state: Mapping[str, StoredArray]) -> None:
        """Overwrite parameters and moments from arrays named as in :meth:`state`."""
        for name, array in self.arrays().items():
            array[...] = state[name]
