"""The random numbers that PyTorch draws, without PyTorch, for parameters that it initialises.

The reference program draws tables and MLPs with NumPy, but leaves the projections of narrow
tables to PyTorch. Its generator on CPUs is the Mersenne Twister, seeded as NumPy's; what differs
is how many words of it a number takes. (Read off torch.nn.init and ATen's distributions.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 20  # words drawn at a time
_VECTOR = 16  # normal numbers are made in vectors, of which the last one is drawn again
_WORDS_PER_PAIR = 4  # fewer are made in pairs of two doubles


class TorchStream:
    """PyTorch's stream after ``torch.manual_seed(seed)``, for float32 tensors."""

    def __init__(self, seed: int) -> None:
        self._words = np.random.RandomState(seed % (1 << 32))
        self._spare = False

    def xavier_uniform(self, rows: int, cols: int) -> NDArray[np.float32]:
        """What ``torch.nn.init.xavier_uniform_`` makes of a tensor (rows, cols)."""
        bound = np.float32(np.sqrt(6.0 / (rows + cols)))
        words = self._draw(rows * cols) & np.uint32((1 << 24) - 1)
        unit = words.astype(np.float32) * np.float32(2.0**-24)
        values: NDArray[np.float32] = unit * (bound + bound) - bound
        return values.reshape(rows, cols)

    def skip_uniform(self, count: int) -> None:
        """Pass over ``count`` numbers that ``Tensor.uniform_`` would make."""
        for first in range(0, count, _CHUNK):
            self._draw(min(_CHUNK, count - first))

    def skip_normal(self, count: int) -> None:
        """Pass over ``count`` numbers that ``Tensor.normal_`` would make."""
        if count >= _VECTOR:
            self.skip_uniform(count + (_VECTOR if count % _VECTOR else 0))
            return
        wanted = count - self._spare
        self.skip_uniform(_WORDS_PER_PAIR * -(-wanted // 2))
        self._spare = wanted % 2 == 1

    def _draw(self, count: int) -> NDArray[np.uint32]:
        return self._words.randint(0, 1 << 32, count, dtype=np.uint32)
