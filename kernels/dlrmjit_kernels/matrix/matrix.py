"""Float32 matrices, row-major or in blocks, with one description of both by strides.

Kernels read four strides and never ask how a matrix is stored, so one kernel serves ordinary
row-major arrays, blocked activations ``X[Nb][Cb][bn][bc]`` and weights ``W[Kb][Cb][bc][bk]``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.runtime.buffers import HUGE_PAGE, aligned_empty, allocate
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.operands import (
    FLOAT32,
    check_flags,
    check_ndarray,
    describe,
    strides_overlap,
)
from dlrmjit_kernels.runtime.target import current_target

Floats = NDArray[np.float32]
_MOST_WORK = 10_000  # to decide whether two strided arrays share an element: microseconds


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

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 1 if field.name in ("block_rows", "block_cols") else 0
            _check_integer(field.name, getattr(self, field.name), least)
        if self.rows and self.cols and self._overlaps():
            raise ShapeError(f"elements of a matrix must not overlap, as those of {self} do")

    def _overlaps(self) -> bool:
        """Return whether two elements are at one offset, or might be."""
        axes = [
            (1, self.block_cols),
            (self.row_stride, self.block_rows),
            (self.block_col_stride, self.col_blocks),
            (self.block_row_stride, self.row_blocks),
        ]
        return strides_overlap([axis for axis in axes if axis[1] > 1])

    @classmethod
    @functools.lru_cache(maxsize=4096)
    def blocked(cls, rows: int, cols: int, block_rows: int, block_cols: int) -> Layout:
        """Return blocks in row-major order, as activations ``X[Nb][Cb][bn][bc]``; the last padded.

        A row of 8, 16, ... blocks gets one more as padding, because otherwise the blocks of a
        column would map to the same few sets of the caches.
        """
        _check_integer("block_cols", block_cols, 1)
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

    data: Floats
    layout: Layout
    address: int

    def __init__(self, data: Floats, layout: Layout) -> None:
        check_ndarray("the buffer of a matrix", data)
        is_flat = data.ndim == 1 and data.flags.c_contiguous
        if data.dtype != FLOAT32 or not is_flat or data.size < layout.span:
            raise ShapeError(
                f"a {layout.rows} x {layout.cols} matrix of this layout needs a flat float32 "
                f"buffer of {layout.span} elements, not {describe(data)}"
            )
        check_flags("the buffer of a matrix", data)
        fixed = super().__setattr__
        fixed("data", data)
        fixed("layout", layout)
        fixed("address", int(data.ctypes.data))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} of a matrix cannot be changed; make a new Matrix")

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
        block_rows = min(_or(block_rows, target.row_block), max(rows, 1))
        block_cols = _or(block_cols, target.panel(cols))
        return cls.empty(Layout.blocked(rows, cols, block_rows, block_cols))

    @classmethod
    def empty_panels(cls, rows: int, cols: int, block_cols: int | None = None) -> Matrix:
        """Return uninitialised weights, C rows and K columns, as panels ``W[Kb][C][bk]``."""
        block_cols = _or(block_cols, current_target().panel(cols))
        return cls.empty(Layout.panels(rows, cols, block_cols))

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

    def like(self, data: Floats | None = None) -> Matrix:
        """Return a matrix of the same kind and layout over ``data``, uninitialised by default."""
        return Matrix(aligned_floats(self.layout.span) if data is None else data, self.layout)

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
            For an array of another shape or not of numbers, or if the matrix is read-only.
        """
        check_written("a matrix that is assigned to", self)
        source = as_floats(array)
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


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def layout_of(array: NDArray[Any]) -> Layout:
    """Return the layout of an ordinary 2-D float32 array with contiguous rows.

    Raises
    ------
    ShapeError
        For another rank, dtype or inner stride, or rows that are not whole elements apart.
    """
    check_ndarray("a matrix", array)
    check_flags("a matrix", array)
    return _layout(array.shape, array.strides, array.dtype)


def check_written(name: str, matrix: Matrix) -> None:
    """Raise ShapeError if a matrix that is to be written is over a read-only buffer."""
    check_flags(name, matrix.data, written=True)


def check_apart(name: str, written: Matrix, **others: Matrix | None) -> None:
    """Raise ShapeError if a matrix that is written shares elements with one of ``others``."""
    check_written(name, written)
    begin, end = written.address, written.address + 4 * written.layout.span
    for other, matrix in others.items():
        if (
            matrix is None
            or end <= matrix.address
            or matrix.address + 4 * matrix.layout.span <= begin
        ):
            continue
        if _share_elements(written, matrix):
            raise ShapeError(f"{name} is written and must not overlap {other}; copy one of them")


def _share_elements(a: Matrix, b: Matrix) -> bool:
    """Return whether matrices whose buffers overlap have elements in common, or might have."""
    if 0 in (a.rows, a.cols, b.rows, b.cols):
        return False
    try:
        return np.shares_memory(a._blocks(), b._blocks(), max_work=_MOST_WORK)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def as_floats(array: ArrayLike) -> Floats:
    """Return numbers as a float32 array. Raises ShapeError for what is not numbers."""
    source = np.asarray(array)
    if source.dtype.kind not in "biuf":
        raise ShapeError(f"an array of numbers is needed here, not of {source.dtype}")
    return source.astype(np.float32, copy=False)


def _check_integer(name: str, value: object, least: int) -> None:
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer or int(value) < least:  # type: ignore[call-overload]
        raise ShapeError(f"{name} of a matrix must be an integer from {least} on, not {value!r}")


@functools.lru_cache(maxsize=4096)
def _layout(shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]) -> Layout:
    if dtype != np.float32 or not _is_row_major(shape, strides):
        raise ShapeError(
            "a matrix view needs a 2-D float32 array whose rows are contiguous, not "
            f"{dtype} of shape {shape} with strides {strides}"
        )
    rows, cols = shape
    return Layout.plain(rows, cols, strides[0] // 4 if rows > 1 and cols else cols)


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
