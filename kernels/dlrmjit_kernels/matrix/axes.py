"""Describes a matrix by two axes: a transpose swaps them, and blocking is a property of an axis.

A product ``C[i, j] = sum_l A[i, l] B[l, j]`` needs operands that cut i, l and j into the same
blocks. Whether they do, and with which strides, follows from their layouts alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dlrmjit_kernels.matrix.matrix import Layout
from dlrmjit_kernels.runtime.integers import ceil_div


@dataclass(frozen=True)
class Axis:
    """``extent`` elements: number i has offset ``i // block * block_stride + i % block * step``."""

    extent: int
    block: int
    block_stride: int
    step: int

    @property
    def uniform(self) -> bool:
        """Whether all elements are ``step`` apart, so that any block size describes the axis."""
        return self.extent <= self.block or self.block_stride == self.block * self.step

    def stride(self, block: int) -> int | None:
        """Return the distance of blocks of ``block`` elements, or None if blocks differ."""
        if self.uniform:
            return block * self.step
        return self.block_stride if self.block == block else None

    def every(self, count: int) -> Axis:
        """Return the axis of elements 0, ``count``, ...; ``count`` must divide fixed blocks."""
        extent = ceil_div(self.extent, count)
        if self.uniform:
            return Axis(extent, max(extent, 1), 0, count * self.step)
        return Axis(extent, self.block // count, self.block_stride, count * self.step)


@dataclass(frozen=True)
class View:
    """A matrix as its axis of rows and its axis of columns."""

    rows: Axis
    cols: Axis

    @property
    def transposed(self) -> View:
        """The transpose: the same elements with rows and columns exchanged."""
        return View(self.cols, self.rows)


def view_of(layout: Layout) -> View:
    """Return the axes of a layout."""
    rows = Axis(layout.rows, layout.block_rows, layout.block_row_stride, layout.row_stride)
    return View(rows, Axis(layout.cols, layout.block_cols, layout.block_col_stride, 1))


def common_block(axes: Iterable[Axis], default: int) -> int:
    """Return the block size of the first axis with fixed blocks, else ``default``."""
    fixed = (axis.block for axis in axes if not axis.uniform)
    return next(fixed, default)


def common_tile(axes: Iterable[Axis], default: int) -> int:
    """Return the largest tile size whose tiles lie within single blocks of every axis.

    It is ``default``, at least 1, if no axis has fixed blocks.
    """
    fixed = [axis.block for axis in axes if not axis.uniform]
    return math.gcd(*fixed) if fixed else max(1, default)
