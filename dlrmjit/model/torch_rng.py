"""Draws the random numbers of PyTorch, without PyTorch, for parameters that it initialises.

The reference program draws tables and MLPs with NumPy, but the projections of tables of width
d < E, and tables of quotients and of remainders, with PyTorch. PyTorch's generator on CPUs is the
Mersenne Twister, seeded as NumPy's; they differ in how many 32-bit outputs a random number
consumes, here as in torch.nn.init and ATen's
distributions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 20  # outputs drawn at a time
_VECTOR = 16  # normal numbers are made in vectors; a partial last one is redrawn whole
_OUTPUTS_PER_PAIR = 4  # fewer than a vector are made in pairs, of two doubles


class TorchStream:
    """PyTorch's stream after ``torch.manual_seed(seed)``, for float32 tensors."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.RandomState(seed % (1 << 32))
        self._spare = False

    def xavier_uniform(self, rows: int, cols: int) -> NDArray[np.float32]:
        """Return what ``torch.nn.init.xavier_uniform_`` draws for a tensor (rows, cols)."""
        bound = np.float32(np.sqrt(6.0 / (rows + cols)))
        values: NDArray[np.float32] = self._unit(rows * cols) * (bound + bound) - bound
        return values.reshape(rows, cols)

    def uniform(self, count: int, low: float, high: float) -> NDArray[np.float32]:
        """Return what ``Tensor.uniform_(low, high)`` draws for a tensor of ``count`` elements."""
        first, last = np.float32(low), np.float32(high)
        values: NDArray[np.float32] = self._unit(count) * (last - first) + first
        return values

    def _unit(self, count: int) -> NDArray[np.float32]:
        outputs = self._draw(count) & np.uint32((1 << 24) - 1)
        unit: NDArray[np.float32] = outputs.astype(np.float32) * np.float32(2.0**-24)
        return unit

    def skip_uniform(self, count: int) -> None:
        """Skip ``count`` numbers that ``Tensor.uniform_`` would draw."""
        for first in range(0, count, _CHUNK):
            self._draw(min(_CHUNK, count - first))

    def skip_normal(self, count: int) -> None:
        """Skip ``count`` numbers that ``Tensor.normal_`` would draw."""
        if count >= _VECTOR:
            self.skip_uniform(count + (_VECTOR if count % _VECTOR else 0))
            return
        needed = count - self._spare
        self.skip_uniform(_OUTPUTS_PER_PAIR * -(-needed // 2))
        self._spare = needed % 2 == 1

    def _draw(self, count: int) -> NDArray[np.uint32]:
        return self._generator.randint(0, 1 << 32, count, dtype=np.uint32)
