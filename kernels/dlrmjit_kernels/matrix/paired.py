"""Activations and gradients that are stored as BF16 pairs only, for products on pairs.

A forward product and a gradient by data multiply pairs of neighbours in a row, a gradient by
weights pairs of neighbours in a column. The tile that computes an activation writes both while it
has the numbers in registers: together they take the memory of float32, and no pass over memory
rounds them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.matrix.axes import Axis, View, view_of
from dlrmjit_kernels.matrix.matrix import Floats, Layout, Matrix
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.target import current_target

_SHIFT, _HIGH = np.uint32(16), np.uint32(0xFFFF0000)


class PairedLayout(NamedTuple):
    """Layouts of the pairs of (rows, cols) numbers: along rows, and down columns."""

    rows: int
    along: Layout
    down: Layout

    @property
    def cols(self) -> int:
        """Number of columns, which is even."""
        return self.down.cols

    @property
    def row_view(self) -> View:
        """Where the numbers of the pairs along rows are, in panels as wide as those of ``down``."""
        pairs, panel = view_of(self.along), self.down.block_cols
        return View(pairs.rows, Axis(self.cols, panel, pairs.cols.block_stride, 1))

    @property
    def column_view(self) -> View:
        """Where the numbers of the pairs down columns are, the first row of two at a whole step."""
        rows = Axis(self.rows, max(self.rows, 1), 0, self.down.row_stride // 2)
        return View(rows, view_of(self.down).cols)


class Paired:
    """Numbers (rows, cols) rounded to BF16, as the matrices ``along`` and ``down`` of pairs.

    Uninitialised, in blocks as other activations are. Raises ShapeError for an odd number of
    columns, the last of which would have no partner.
    """

    __slots__ = ("along", "down", "layout")

    layout: PairedLayout
    along: Matrix
    down: Matrix

    def __init__(self, rows: int, cols: int) -> None:
        if cols % 2:
            raise ShapeError(f"an even number of columns is stored in pairs, not {cols}")
        target = current_target()
        block = min(target.row_block, max(rows, 1))
        along = Layout.blocked(rows, cols // 2, block, target.nr // 2)
        layout = PairedLayout(rows, along, Layout.panels(ceil_div(rows, 2), cols, target.nr))
        fixed = super().__setattr__
        fixed("layout", layout)
        fixed("along", Matrix.empty(layout.along))
        fixed("down", Matrix.empty(layout.down))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} of activations cannot be changed; make new ones")

    def __repr__(self) -> str:
        return f"Paired({self.rows} x {self.cols}, bf16)"

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.layout.rows

    @property
    def cols(self) -> int:
        """Number of columns."""
        return self.layout.cols

    def to_numpy(self) -> Floats:
        """Return the numbers as a float32 array (rows, cols)."""
        pairs = self.along.to_numpy().view(np.uint32)
        both = np.stack([pairs << _SHIFT, pairs & _HIGH], axis=2)
        numbers: Floats = both.reshape(self.rows, self.cols).view(np.float32)
        return numbers
