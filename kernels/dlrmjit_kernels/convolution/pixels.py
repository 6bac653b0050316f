"""Copies between rows of numbers (C, H, W), as arrays have images, and images in blocks."""

from __future__ import annotations

import numpy as np

from dlrmjit_kernels.convolution.shape import check_size, image_layout
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.matrix.matrix import Floats, Matrix, check_apart
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.operands import FLOAT32, check_array
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS, run_tasks

_Sizes = tuple[int, int, int, int, int, int]


def images_of_rows(rows: Matrix, first: int, shape: tuple[int, int, int], images: Matrix) -> None:
    """Write images of ``shape`` (C, H, W) from C * H * W columns of ``rows``, from ``first`` on.

    Channels that pad the last block become zero. Raises ShapeError for a layout that is not that of
    the images, rows that are not contiguous, or too few columns.
    """
    sizes = _checked(rows, first, shape, images)
    check_apart("images", images, rows=rows)
    _to_images(_flat(rows), _flat(images, written=True), sizes, rows.rows)


def rows_of_images(images: Matrix, shape: tuple[int, int, int], rows: Matrix, first: int) -> None:
    """Write images of ``shape`` (C, H, W) to C * H * W columns of ``rows``, from ``first`` on.

    Raises ShapeError as :func:`images_of_rows` does.
    """
    sizes = _checked(rows, first, shape, images)
    check_apart("rows", rows, images=images)
    _to_rows(_flat(images), _flat(rows, written=True), sizes, rows.rows)


def _checked(rows: Matrix, first: int, shape: tuple[int, int, int], images: Matrix) -> _Sizes:
    """Return what the loops need: C, H * W, block of channels, blocks, row stride, first column."""
    for name, value in zip("CHW", shape, strict=True):
        check_size(name, value, True)
    check_size("the first column", first, False)
    c, h, w = shape
    layout = image_layout(rows.rows, c, h, w)
    if images.layout != layout:
        raise ShapeError(f"images {shape} must have the {layout}, not the {images.layout}")
    if rows.layout.row_blocks > 1 or rows.layout.col_blocks > 1:
        raise ShapeError(f"images are copied from or to contiguous rows, not the {rows.layout}")
    if first + c * h * w > rows.cols:
        raise ShapeError(
            f"images {shape} from column {first} on need {first + c * h * w} columns, not "
            f"{rows.cols}"
        )
    stride = rows.layout.row_stride
    return c, h * w, layout.block_cols, layout.col_blocks, stride, first


def _flat(matrix: Matrix, written: bool = False) -> Floats:
    return check_array("the buffer of a matrix", matrix.data, FLOAT32, 1, written)


@jit
def _to_images(rows: Floats, images: Floats, sizes: _Sizes, count: int) -> None:
    run_tasks(_block_of_row, count * sizes[3], (rows, images, sizes), _is_small(images))


@jit
def _to_rows(images: Floats, rows: Floats, sizes: _Sizes, count: int) -> None:
    run_tasks(_row_of_block, count * sizes[3], (images, rows, sizes), _is_small(images))


@jit
def _is_small(images: Floats) -> bool:
    return len(images) < PARALLEL_MIN_ELEMENTS


@task_jit
def _block_of_row(task: int, rows: Floats, images: Floats, sizes: _Sizes) -> None:
    channels, pixels, block, blocks, stride, first = sizes
    image, number = divmod(task, blocks)
    for c in range(block):
        channel = number * block + c
        at = image * stride + first + channel * pixels
        for p in range(pixels):
            value = rows[at + p] if channel < channels else np.float32(0)
            images[(task * pixels + p) * block + c] = value


@task_jit
def _row_of_block(task: int, images: Floats, rows: Floats, sizes: _Sizes) -> None:
    channels, pixels, block, blocks, stride, first = sizes
    image, number = divmod(task, blocks)
    for c in range(min(block, channels - number * block)):
        at = image * stride + first + (number * block + c) * pixels
        for p in range(pixels):
            rows[at + p] = images[(task * pixels + p) * block + c]
