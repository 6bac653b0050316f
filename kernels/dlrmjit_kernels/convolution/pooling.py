"""Max and average pooling of images, and their gradients.

A task is a block of channels of an image, so overlapping windows are added up in one order: the
bits are the same for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlrmjit_kernels.convolution.shape import Windows, image_layout
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.matrix.matrix import Floats, Layout, Matrix, check_apart
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.operands import FLOAT32, check_array
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS, run_tasks

_Sizes = tuple[int, int, int, int, int, int, int, int, int]


@dataclass(frozen=True)
class Pooling(Windows):
    """Windows of R by S pixels of N images of C channels, every ``stride`` pixels.

    Pixels of the ``padding`` are in no window: they are not the maximum, and an average is that of
    the pixels inside the image.

    Raises
    ------
    ShapeError
        For sizes that are not positive integers, windows larger than the padded image, or a padding
        of more than half a window, where a window would have no pixels.
    """

    N: int
    C: int
    H: int
    W: int
    R: int
    S: int
    stride: int = 1
    padding: int = 0

    def __post_init__(self) -> None:
        self.check()
        if 2 * self.padding > min(self.R, self.S):
            raise ShapeError(
                f"windows of {self.R} x {self.S} pixels may have a padding of at most half their "
                f"size, not {self.padding}"
            )

    @property
    def output_layout(self) -> Layout:
        """Layout of y."""
        return image_layout(self.N, self.C, self.P, self.Q)

    @property
    def _sizes(self) -> _Sizes:
        block = self.input_layout.block_cols
        sizes = self.H, self.W, self.P, self.Q, self.R, self.S, self.stride, self.padding
        return (*sizes, block)

    @property
    def _tasks(self) -> int:
        return self.N * self.input_layout.col_blocks


def max_pool(pool: Pooling, x: Matrix, y: Matrix) -> None:
    """Write the maximum of every window and channel to y; NaN if there is one."""
    _pool(pool, x, y, True)


def average_pool(pool: Pooling, x: Matrix, y: Matrix) -> None:
    """Write the mean of the pixels of every window and channel to y."""
    _pool(pool, x, y, False)


def max_pool_backward(pool: Pooling, x: Matrix, y: Matrix, dy: Matrix, dx: Matrix) -> None:
    """Write the gradient of x: that of a window goes to the first pixel with its maximum."""
    _check(pool, x, y)
    _check(pool, dx, dy)
    check_apart("dx", dx, x=x, y=y, dy=dy)
    arrays = _flat(x), _flat(y), _flat(dy), _flat(dx, written=True)
    _backward(*arrays, pool._sizes, pool._tasks, True)


def average_pool_backward(pool: Pooling, dy: Matrix, dx: Matrix) -> None:
    """Write the gradient of x, which every pixel of a window shares equally."""
    _check(pool, dx, dy)
    check_apart("dx", dx, dy=dy)
    gradient = _flat(dy)
    _backward(
        gradient, gradient, gradient, _flat(dx, written=True), pool._sizes, pool._tasks, False
    )


def _pool(pool: Pooling, x: Matrix, y: Matrix, largest: bool) -> None:
    _check(pool, x, y)
    check_apart("y", y, x=x)
    _forward(_flat(x), _flat(y, written=True), pool._sizes, pool._tasks, largest)


def _check(pool: Pooling, x: Matrix, y: Matrix) -> None:
    for matrix, layout in ((x, pool.input_layout), (y, pool.output_layout)):
        if matrix.layout != layout:
            raise ShapeError(f"{pool} needs images of the {layout}, not the {matrix.layout}")


def _flat(matrix: Matrix, written: bool = False) -> Floats:
    return check_array("the buffer of a matrix", matrix.data, FLOAT32, 1, written)


@jit
def _forward(x: Floats, y: Floats, sizes: _Sizes, tasks: int, largest: bool) -> None:
    run_tasks(_pool_block, tasks, (x, y, sizes, largest), len(x) < PARALLEL_MIN_ELEMENTS)


@jit
def _window(output: int, taps: int, stride: int, padding: int, extent: int) -> tuple[int, int]:
    """Return the first pixel of a window inside the image, and the one after the last."""
    start = output * stride - padding
    return max(0, start), min(extent, start + taps)


@task_jit
def _pool_block(task: int, x: Floats, y: Floats, sizes: _Sizes, largest: bool) -> None:
    h, w, p, q, r, s, stride, padding, block = sizes
    for output in range(p * q):
        top, bottom = _window(output // q, r, stride, padding, h)
        left, right = _window(output % q, s, stride, padding, w)
        at = (task * p * q + output) * block
        row = y[at : at + block]
        row[:] = -np.inf if largest else 0.0
        for i in range(top, bottom):
            for j in range(left, right):
                start = (task * h * w + i * w + j) * block
                pixel = x[start : start + block]
                for c in range(block):
                    if largest:
                        # the second comparison is true of NaN alone
                        row[c] = pixel[c] if pixel[c] > row[c] or pixel[c] != pixel[c] else row[c]
                    else:
                        row[c] += pixel[c]
        if not largest:
            count = np.float32((bottom - top) * (right - left))
            for c in range(block):
                row[c] /= count


@jit
def _backward(
    x: Floats, y: Floats, dy: Floats, dx: Floats, sizes: _Sizes, tasks: int, largest: bool
) -> None:
    serial = len(dx) < PARALLEL_MIN_ELEMENTS
    run_tasks(_spread_block, tasks, (x, y, dy, dx, sizes, largest), serial)


@task_jit
def _spread_block(
    task: int, x: Floats, y: Floats, dy: Floats, dx: Floats, sizes: _Sizes, largest: bool
) -> None:
    h, w, p, q, r, s, stride, padding, block = sizes
    dx[task * h * w * block : (task + 1) * h * w * block] = 0.0
    shares = np.empty(block, np.float32)
    for output in range(p * q):
        top, bottom = _window(output // q, r, stride, padding, h)
        left, right = _window(output % q, s, stride, padding, w)
        at = (task * p * q + output) * block
        count = np.float32(1.0) if largest else np.float32((bottom - top) * (right - left))
        for c in range(block):
            shares[c] = dy[at + c] * (np.float32(1.0) / count)
        largest_of = y[at : at + block]
        for i in range(top, bottom):
            for j in range(left, right):
                start = (task * h * w + i * w + j) * block
                if largest:
                    _give(x[start : start + block], largest_of, shares, dx[start : start + block])
                else:
                    for c in range(block):
                        dx[start + c] += shares[c]


@jit
def _give(pixel: Floats, largest: Floats, shares: Floats, gradient: Floats) -> None:
    """Move the shares of channels whose largest is this pixel, or that are NaN, to its gradient."""
    for c in range(len(shares)):
        is_largest = pixel[c] == largest[c] or pixel[c] != pixel[c]
        share = shares[c]
        gradient[c] += share if is_largest else np.float32(0.0)
        shares[c] = np.float32(0.0) if is_largest else share
