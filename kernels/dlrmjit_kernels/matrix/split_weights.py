"""Weights as two arrays of halves: upper 16 bits, which are BF16 numbers, and lower 16 bits.

Layers read the upper halves only; an optimiser joins both, so that it updates float32 numbers
exactly, in the memory that float32 weights would take (Kalamkar et al., SC20). Either half lies
as ``[Kb][C/2][bk][2]``: a *word* holds two neighbours along C, which is what the kernels multiply.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.matrix.matrix import Floats, Layout, Matrix
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.target import current_target

Words = NDArray[np.uint32]
HIGH = np.uint32(0xFFFF0000)
LOW = np.uint32(0x0000FFFF)
_HALF = np.uint32(16)


class SplitWeights:
    """Weights w (C, K) in halves; ``high`` and ``low`` are matrices (ceil(C / 2), K) of words.

    Words are stored as float32, though they are none: the kernels move them alike. The second
    number of the last word of an odd C is zero in both halves.
    """

    __slots__ = ("high", "low", "rows")

    def __init__(self, rows: int, cols: int) -> None:
        layout = Layout.panels(ceil_div(rows, 2), cols, current_target().panel(cols))
        self.rows = rows
        self.high = Matrix.empty(layout)
        self.low = Matrix.empty(layout)

    @property
    def cols(self) -> int:
        """Number of columns K."""
        return self.high.cols

    @property
    def float_layout(self) -> Layout:
        """Layout of float32 weights, or gradients, whose elements lie in the same order."""
        return Layout.panels(self.rows, self.cols, self.high.layout.block_cols)

    def assign(self, array: ArrayLike) -> SplitWeights:
        """Split a (rows, cols) array into the halves. Returns the weights themselves.

        Raises
        ------
        ShapeError
            For an array of another shape.
        """
        source = np.asarray(array, dtype=np.float32)
        if source.shape != (self.rows, self.cols):
            raise ShapeError(
                f"an array of shape {source.shape} does not fill {self.rows} x {self.cols} weights"
            )
        padded = np.pad(source, ((0, self.rows % 2), (0, 0))).view(np.uint32)
        first, second = padded[::2], padded[1::2]
        self.high.assign((first >> _HALF | second & HIGH).view(np.float32))
        self.low.assign((first & LOW | second << _HALF).view(np.float32))
        return self

    def to_numpy(self) -> Floats:
        """Both halves joined: an ordinary (rows, cols) array, exact to the bit."""
        high, low = (x.to_numpy().view(np.uint32) for x in (self.high, self.low))
        return self._in_rows(high << _HALF | low & LOW, high & HIGH | low >> _HALF)

    def truncated(self) -> Floats:
        """What layers compute with: a (rows, cols) array of the upper halves as float32."""
        high = self.high.to_numpy().view(np.uint32)
        return self._in_rows(high << _HALF, high & HIGH)

    def _in_rows(self, first: Words, second: Words) -> Floats:
        rows = np.stack([first, second], axis=1).reshape(-1, self.cols)[: self.rows]
        return rows.view(np.float32)

    def upcast(self, into: Matrix) -> None:
        """Write what layers compute with into a matrix of layout ``float_layout``."""
        words = self.high.data.view(np.uint32)
        blocks, width = self.high.layout.col_blocks, self.high.layout.block_cols
        _upcast(words, into.data.view(np.uint32), self.rows, blocks, width)


@jit
def _upcast(words: Words, into: Words, rows: int, blocks: int, width: int) -> None:
    run_tasks(_upcast_pair, blocks * ((rows + 1) // 2), (words, into, rows, width), ALL_THREADS)


@task_jit
def _upcast_pair(pair: int, words: Words, into: Words, rows: int, width: int) -> None:
    pairs = (rows + 1) // 2
    block, row = pair // pairs, 2 * (pair % pairs)
    target = (block * rows + row) * width
    for k in range(width):
        into[target + k] = words[pair * width + k] << _HALF
    if row + 1 < rows:
        for k in range(width):
            into[target + width + k] = words[pair * width + k] & HIGH
