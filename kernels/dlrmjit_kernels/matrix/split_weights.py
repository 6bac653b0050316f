"""Split-BF16 weights: the high 16 bits of float32 numbers, which are BF16, and the low 16 bits.

Layers read the high bits only. An optimizer joins both and so updates float32 numbers exactly, in
the memory of float32 weights (Kalamkar et al., SC20). Both are stored as ``[Kb][C/2][bk][2]``,
the VNNI layout: pairs of neighbours along C, which the kernels multiply.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.matrix.matrix import Floats, Layout, Matrix, as_floats, check_apart
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.target import current_target

Bits = NDArray[np.uint32]
HIGH = np.uint32(0xFFFF0000)
LOW = np.uint32(0x0000FFFF)
_SHIFT = np.uint32(16)


class SplitWeights:
    """Weights w (C, K); ``high`` and ``low`` are matrices (ceil(C / 2), K) of pairs of 16 bits.

    The matrices are float32 in type only, because kernels copy all 32-bit elements alike. For an
    odd C, the second number of the last pairs is zero in both.
    """

    __slots__ = ("high", "low", "rows")

    rows: int
    high: Matrix
    low: Matrix

    def __init__(self, rows: int, cols: int) -> None:
        layout = Layout.panels(rows, cols, current_target().panel(cols))  # checks both numbers
        layout = Layout.panels(ceil_div(rows, 2), cols, layout.block_cols)
        fixed = super().__setattr__
        fixed("rows", rows)
        fixed("high", Matrix.empty(layout))
        fixed("low", Matrix.empty(layout))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} of weights cannot be changed; make new SplitWeights")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.rows, self.cols, self.high.data, self.low.data)

    def __repr__(self) -> str:
        return f"SplitWeights({self.rows} x {self.cols}, bf16)"

    @property
    def cols(self) -> int:
        """Number of columns K."""
        return self.high.cols

    @property
    def float_layout(self) -> Layout:
        """Layout of float32 weights or gradients in the same blocks."""
        return Layout.panels(self.rows, self.cols, self.high.layout.block_cols)

    def assign(self, array: ArrayLike) -> SplitWeights:
        """Split a (rows, cols) array into both matrices, and return the weights.

        Raises
        ------
        ShapeError
            For an array of another shape.
        """
        source = as_floats(array)
        if source.shape != (self.rows, self.cols):
            raise ShapeError(
                f"an array of shape {source.shape} cannot be assigned to {self.rows} x {self.cols} "
                "weights"
            )
        padded = np.pad(source, ((0, self.rows % 2), (0, 0))).view(np.uint32)
        first, second = padded[::2], padded[1::2]
        self.high.assign((first >> _SHIFT | second & HIGH).view(np.float32))
        self.low.assign((first & LOW | second << _SHIFT).view(np.float32))
        return self

    def to_numpy(self) -> Floats:
        """Return the float32 weights as an ordinary (rows, cols) array, exact to the bit."""
        high, low = (x.to_numpy().view(np.uint32) for x in (self.high, self.low))
        return self._in_rows(high << _SHIFT | low & LOW, high & HIGH | low >> _SHIFT)

    def truncated(self) -> Floats:
        """Return the weights that layers read, truncated to BF16, as a float32 array."""
        high = self.high.to_numpy().view(np.uint32)
        return self._in_rows(high << _SHIFT, high & HIGH)

    def _in_rows(self, first: Bits, second: Bits) -> Floats:
        rows = np.stack([first, second], axis=1).reshape(-1, self.cols)[: self.rows]
        return rows.view(np.float32)

    def upcast(self, into: Matrix) -> None:
        """Write the weights that layers read as float32 to a matrix of layout ``float_layout``.

        Raises
        ------
        ShapeError
            For a matrix of another layout, or one that is read-only.
        """
        if into.layout != self.float_layout:
            raise ShapeError(
                f"{self.rows} x {self.cols} weights are upcast to {self.float_layout}, "
                f"not to {into.layout}"
            )
        check_apart("the matrix", into, **{"the weights": self.high})
        pairs = self.high.data.view(np.uint32)
        blocks, width = self.high.layout.col_blocks, self.high.layout.block_cols
        _upcast(pairs, into.data.view(np.uint32), self.rows, blocks, width)


def _restored(rows: int, cols: int, high: Floats, low: Floats) -> SplitWeights:
    """Return weights of these bits, for a copy."""
    weights = SplitWeights(rows, cols)
    weights.high.data[...], weights.low.data[...] = high, low
    return weights


@jit
def _upcast(pairs: Bits, into: Bits, rows: int, panels: int, width: int) -> None:
    operands = (pairs, into, rows, width)
    run_tasks(_upcast_row, panels * ceil_div(rows, 2), operands, ALL_THREADS)


@task_jit
def _upcast_row(task: int, pairs: Bits, into: Bits, rows: int, width: int) -> None:
    """Write the two rows of float32 numbers of one row of pairs of a panel."""
    pair_rows = ceil_div(rows, 2)
    panel, row = task // pair_rows, 2 * (task % pair_rows)
    first = (panel * rows + row) * width
    for k in range(width):
        into[first + k] = pairs[task * width + k] << _SHIFT
    if row + 1 < rows:
        for k in range(width):
            into[first + width + k] = pairs[task * width + k] & HIGH
