"""Dropout whose mask is never stored: every element's fate follows from its number.

Forward and backward are the same operation with the same stream.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from dlrmjit.errors import ShapeError
from dlrmjit_kernels.compile import parallel_jit
from dlrmjit_kernels.counter import draw
from dlrmjit_kernels.matrix import Matrix
from dlrmjit_kernels.rows import Strides, position, run_length, strides_of

F32 = NDArray[np.float32]


def dropout(x: Matrix, y: Matrix, rate: float, stream: int) -> None:
    """``y = x / (1 - rate)`` where an element is kept, else 0; may be in place.

    Element (r, c) of C columns is kept when the upper 24 bits of number ``r * C + c`` of the
    splitmix64 ``stream`` are at least ``rate * 2**24`` (Srivastava et al. 2014).
    """
    if (x.rows, x.cols) != (y.rows, y.cols):
        raise ShapeError(f"dropout of {x.rows} x {x.cols} into {y.rows} x {y.cols}")
    least, scale = np.uint64(int(rate * 2**24)), np.float32(1.0 / (1.0 - rate))
    xs, ys = strides_of(x.layout), strides_of(y.layout)
    _dropout(x.data, xs, y.data, ys, x.rows, x.cols, least, scale, np.uint64(stream))


@parallel_jit
def _dropout(
    x: F32,
    xs: Strides,
    y: F32,
    ys: Strides,
    rows: int,
    cols: int,
    least: Any,
    scale: Any,
    stream: Any,
) -> None:
    for row in prange(rows):
        column = 0
        while column < cols:
            run = min(run_length(xs, column, cols - column), run_length(ys, column, cols - column))
            a, b = position(xs, row, column), position(ys, row, column)
            number = row * cols + column
            for k in range(run):
                kept = (draw(stream, number + k) >> np.uint64(40)) >= least
                y[b + k] = x[a + k] * scale if kept else np.float32(0)
            column += run
