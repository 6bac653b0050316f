"""A matrix seen as two axes, so that a transpose is a swap and blocking is a property of an axis.

A product ``C[i, j] = sum_l A[i, l] B[l, j]`` needs its operands to agree on how i, l and j are
cut into blocks; whether they do, and by which strides, is decided here from layouts alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dlrmjit_kernels.matrix.matrix import Layout


@dataclass(frozen=True)
class Axis:
    """``extent`` elements, number i at ``(i // block) * block_stride + (i % block) * step``."""

    extent: int
    block: int
    block_stride: int
    step: int

    @property
    def uniform(self) -> bool:
        """Whether all elements are ``step`` apart, so that any block size describes them."""
        return self.extent <= self.block or self.block_stride == self.block * self.step

    def stride(self, block: int) -> int | None:
        """Distance of blocks of ``block`` elements, or None where the axis is cut otherwise."""
        if self.uniform:
            return block * self.step
        return self.block_stride if self.block == block else None


@dataclass(frozen=True)
class View:
    """A matrix as its axis of rows and its axis of columns."""

    rows: Axis
    cols: Axis

    @property
    def transposed(self) -> View:
        """The same elements with rows and columns exchanged."""
        return View(self.cols, self.rows)


def view_of(at: Layout) -> View:
    """The axes of a layout."""
    rows = Axis(at.rows, at.block_rows, at.block_row_stride, at.row_stride)
    return View(rows, Axis(at.cols, at.block_cols, at.block_col_stride, 1))


def common_block(axes: Iterable[Axis], default: int) -> int:
    """The block size that the first axis with a fixed one dictates, else ``default``."""
    fixed = (axis.block for axis in axes if not axis.uniform)
    return next(fixed, default)


def common_tile(axes: Iterable[Axis], default: int) -> int:
    """Elements of which no run, counted from the first, crosses a border of a block of any axis.

    ``default`` where no axis has borders.
    """
    fixed = [axis.block for axis in axes if not axis.uniform]
    return math.gcd(*fixed) if fixed else max(1, default)
