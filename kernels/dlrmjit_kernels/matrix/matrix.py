"""Float32 matrices, row-major or in blocks, with one description of both by strides.

Kernels read four strides and never ask how a matrix is stored, so one kernel serves ordinary
row-major arrays, blocked activations ``X[Nb][Cb][bn][bc]`` and weights ``W[Kb][Cb][bc][bk]``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.runtime.buffers import HUGE_PAGE, aligned_empty, allocate
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.target import current_target

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """How the elements of a (rows, cols) matrix are stored; all strides count elements.

    Element (r, c) is at ``(r // block_rows) * block_row_stride +
    (c // block_cols) * block_col_stride + (r % block_rows) * row_stride + c % block_cols``.
    """

    rows: int
    cols: int
    block_rows: int
    block_cols: int
    block_row_stride: int
    block_col_stride: int
    row_stride: int

    @classmethod
    @functools.lru_cache(maxsize=4096)
    def blocked(cls, rows: int, cols: int, block_rows: int, block_cols: int) -> Layout:
        """Return blocks in row-major order, as activations ``X[Nb][Cb][bn][bc]``; the last padded.

        A row of 8, 16, ... blocks gets one more as padding, because otherwise the blocks of a
        column would map to the same few sets of the caches.
        """
        block = block_rows * block_cols
        across = ceil_div(cols, block_cols)
        across += across % 8 == 0
        return cls(rows, cols, block_rows, block_cols, across * block, block, block_cols)

    @classmethod
    @functools.lru_cache(maxsize=4096)
    def panels(cls, rows: int, cols: int, block_cols: int) -> Layout:
        """Return contiguous column panels, as weights ``W[Kb][C][bk]``; the last one is padded."""
        panel = rows * block_cols
        return cls(rows, cols, max(rows, 1), block_cols, 0, panel, block_cols)

    @classmethod
    @functools.lru_cache(maxsize=4096)
    def plain(cls, rows: int, cols: int, leading: int | None = None) -> Layout:
        """Return row-major order with ``leading`` elements from row to row (default: ``cols``)."""
        stride = cols if leading is None else leading
        return cls(rows, cols, max(rows, 1), max(cols, 1), 0, 0, stride)

    @property
    def row_blocks(self) -> int:
        """Number of blocks down the matrix."""
        return ceil_div(self.rows, self.block_rows)

    @property
    def col_blocks(self) -> int:
        """Number of blocks across the matrix."""
        return ceil_div(self.cols, self.block_cols)

    @property
    def span(self) -> int:
        """Number of elements of a buffer for the matrix, padding of the last blocks included."""
        if self.rows == 0 or self.cols == 0:
            return 0
        last_block = (self.row_blocks - 1) * self.block_row_stride
        last_block += (self.col_blocks - 1) * self.block_col_stride
        return last_block + (self.block_rows - 1) * self.row_stride + self.block_cols


class Matrix:
    """A float32 matrix over a buffer ``data``, which starts at element (0, 0).

    Padding of the last blocks is undefined, and never affects a result of a kernel. A copy, also by
    ``pickle``, has the same layout and a buffer of its own.
    """

    __slots__ = ("address", "data", "layout")

    def __init__(self, data: Floats, layout: Layout) -> None:
        if data.dtype != np.float32 or data.ndim != 1 or data.size < layout.span:
            raise ShapeError(
                f"a {layout.rows} x {layout.cols} matrix of this layout needs a flat float32 "
                f"buffer of {layout.span} elements, not {data.dtype} of shape {data.shape}"
            )
        self.data = data
        self.layout = layout
        self.address = int(data.ctypes.data)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.data[: self.layout.span], self.layout)

    def __repr__(self) -> str:
        x = self.layout
        blocks = f", in blocks of {x.block_rows} x {x.block_cols}" if x.block_col_stride else ""
        return f"Matrix({x.rows} x {x.cols} float32{blocks})"

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.layout.rows

    @property
    def cols(self) -> int:
        """Number of columns."""
        return self.layout.cols

    @classmethod
    def empty(cls, layout: Layout) -> Matrix:
        """Return an uninitialised matrix of a layout, aligned to 64 bytes."""
        return cls(aligned_floats(layout.span), layout)

    @classmethod
    def empty_blocked(
        cls, rows: int, cols: int, block_rows: int | None = None, block_cols: int | None = None
    ) -> Matrix:
        """Return uninitialised activations; block sizes default to those of the kernels' tiles."""
        target = current_target()
        block_rows = min(block_rows or target.row_block, max(rows, 1))
        return cls.empty(Layout.blocked(rows, cols, block_rows, block_cols or target.panel(cols)))

    @classmethod
    def empty_panels(cls, rows: int, cols: int, block_cols: int | None = None) -> Matrix:
        """Return uninitialised weights, C rows and K columns, as panels ``W[Kb][C][bk]``."""
        return cls.empty(Layout.panels(rows, cols, block_cols or current_target().panel(cols)))

    @classmethod
    def view(cls, array: NDArray[Any]) -> Matrix:
        """Wrap a 2-D float32 array of unit inner stride without copying it.

        Raises
        ------
        ShapeError
            For another rank, dtype or inner stride, or rows that are not whole elements apart.
        """
        layout = layout_of(array)
        flat = np.lib.stride_tricks.as_strided(array, (layout.span,), (4,))
        return cls(flat, layout)

    def to_numpy(self) -> Floats:
        """Return a copy as an ordinary (rows, cols) array."""
        if self.rows == 0 or self.cols == 0:
            return np.empty((self.rows, self.cols), dtype=np.float32)
        blocks = self._blocks()
        down, height, across, width = blocks.shape
        full = blocks.reshape(down * height, across * width)
        result: Floats = full[: self.rows, : self.cols].copy()
        return result

    def assign(self, array: ArrayLike) -> Matrix:
        """Copy a (rows, cols) array into the matrix, zero the padding, and return the matrix.

        Raises
        ------
        ShapeError
            For an array of another shape.
        """
        source = np.asarray(array, dtype=np.float32)
        if source.shape != (self.rows, self.cols):
            raise ShapeError(
                f"an array of shape {source.shape} cannot be assigned to a "
                f"{self.rows} x {self.cols} matrix"
            )
        if source.size == 0:
            return self
        blocks = self._blocks()
        down, height, across, width = blocks.shape
        padding = ((0, down * height - self.rows), (0, across * width - self.cols))
        blocks[...] = np.pad(source, padding).reshape(blocks.shape)
        return self

    def _blocks(self) -> Floats:
        """View the buffer as (row block, row, column block, column), padding included."""
        x = self.layout
        shape = (x.row_blocks, x.block_rows, x.col_blocks, x.block_cols)
        strides = (4 * x.block_row_stride, 4 * x.row_stride, 4 * x.block_col_stride, 4)
        view: Floats = np.lib.stride_tricks.as_strided(self.data, shape, strides)
        return view


def _restored(data: Floats, layout: Layout) -> Matrix:
    """Return a new matrix with the elements of another, padding included."""
    matrix = Matrix.empty(layout)
    np.copyto(matrix.data, data)
    return matrix


def layout_of(array: NDArray[Any]) -> Layout:
    """Return the layout of an ordinary 2-D float32 array with contiguous rows.

    Raises
    ------
    ShapeError
        For another rank, dtype or inner stride, or rows that are not whole elements apart.
    """
    return _layout(array.shape, array.strides, array.dtype)


@functools.lru_cache(maxsize=4096)
def _layout(shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]) -> Layout:
    if dtype != np.float32 or not _is_row_major(shape, strides):
        raise ShapeError(
            "a matrix view needs a 2-D float32 array whose rows are contiguous, not "
            f"{dtype} of shape {shape} with strides {strides}"
        )
    rows, cols = shape
    return Layout.plain(rows, cols, strides[0] // 4 if rows > 1 else cols)


def _is_row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    if len(shape) != 2:
        return False
    (rows, cols), (row, col) = shape, strides
    return rows * cols == 0 or (
        (col == 4 or cols <= 1) and (rows <= 1 or (row % 4 == 0 and row >= 4 * cols))
    )


def aligned_floats(count: int) -> Floats:
    """Return ``count`` uninitialised floats, on huge pages if they fill one."""
    if 4 * count >= HUGE_PAGE:
        large: Floats = allocate(4 * count).data.view(np.float32)
        return large
    small: Floats = aligned_empty(count)
    return small
