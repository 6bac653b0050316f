"""The rule of the compiled backend for convolutions of sequences of vectors (Caser).

A sequence of L vectors of width E is an image of one row of L pixels and E channels. Up to as many
channels as a block has, it is stored as the vectors are, so the lookup itself is the image; wider
ones are copied. Rectifying the maximum over positions is the same as rectifying every position.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from dlrmjit_kernels.convolution.direct import (
    bind_backward_data,
    bind_backward_weights,
    bind_forward,
)
from dlrmjit_kernels.convolution.pooling import Pooling, max_pool, max_pool_backward
from dlrmjit_kernels.convolution.positions import position_sums, position_sums_backward
from dlrmjit_kernels.convolution.shape import Convolution, Filters, image_layout
from dlrmjit_kernels.matrix.axes import view_of
from dlrmjit_kernels.matrix.matrix import Layout, Matrix
from dlrmjit_kernels.matrix.relayout import relayout
from dlrmjit_kernels.runtime.buffers import aligned_empty
from dlrmjit_kernels.runtime.compile import Call
from dlrmjit_kernels.runtime.threads import get_threads
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.image_shapes import sequence_parameters
from dlrmjit.ops.jit.join import array_of, rows_of, store_gradient

Gradients = Iterator[tuple[int, Any]]
F32 = NDArray[np.float32]


class _Height(NamedTuple):
    """The filters of one height: their convolution and pooling, and its buffers.

    ``largest`` are the maxima over positions, ``columns`` those of the result.
    """

    conv: Convolution
    pool: Pooling
    z: Matrix
    largest: Matrix
    columns: slice
    forward: Call

    @property
    def maxima(self) -> F32:
        """The maxima as rows (N, K)."""
        return _rows(self.largest)


class _Sequences(NamedTuple):
    """What a replay needs for x at one address: its image, and the filters of every height."""

    image: Matrix
    is_copied: bool
    heights: list[_Height]


def _rows(images: Matrix) -> F32:
    """Return a view (N, C) of images of one pixel."""
    layout = images.layout
    return images.data.reshape(layout.rows, layout.block_row_stride)[:, : layout.cols]


def _vectors(step: Step) -> F32:
    """Return x as a contiguous array, which is the same object for every replay."""
    x: F32 = step.values[0]
    if x.flags.c_contiguous:
        return x
    copy: F32 = step.cached("x", lambda: aligned_empty(x.shape))
    np.copyto(copy, x)
    return copy


def _forward(step: Step) -> Matrix:
    x = _vectors(step)
    heights, positions = sequence_parameters(step.values)
    n, length, dim = x.shape
    widths = [b.size for _, b in heights]
    ends = list(accumulate(widths))
    y = step.cached("y", lambda: aligned_empty((n, ends[-1] + positions.cols * dim)))
    if n:
        bound = _bound(step, x, ends)
        if bound.is_copied:
            _copy(Matrix.view(x.reshape(n * length, dim)), bound.image)
        for height in bound.heights:
            height.forward()
            max_pool(height.pool, height.z, height.largest)
            np.maximum(height.maxima, 0, out=y[:, height.columns])
        sums = step.cached("sums", lambda: aligned_empty((n, positions.cols, dim)))
        position_sums(x, _weights(step), sums)
        y[:, ends[-1] :] = sums.reshape(n, -1)
    return step.cached("result", lambda: Matrix.view(y))


def _weights(step: Step) -> F32:
    """Return the weights of positions (V, L)."""
    return np.ascontiguousarray(array_of(step, len(step.values) - 1))


def _copy(source: Matrix, target: Matrix) -> None:
    relayout(view_of(source.layout), source.address, view_of(target.layout), target.address)


def _bound(step: Step, x: F32, ends: list[int]) -> _Sequences:
    operands = x, *step.values[1:-1]
    return step.cached_for(("forward", get_threads()), operands, partial(_bind, step, x, ends))


def _bind(step: Step, x: F32, ends: list[int]) -> _Sequences:
    n, length, dim = x.shape
    layout = image_layout(n, dim, 1, length)
    is_copied = layout.block_cols < dim
    flat = x.reshape(-1)
    image = (
        step.cached("image", partial(Matrix.empty, layout)) if is_copied else Matrix(flat, layout)
    )
    heights = []
    for (w, b), end in zip(sequence_parameters(step.values)[0], ends, strict=True):
        k, _, _, taps = w.shape
        conv = Convolution(n, dim, 1, length, k, 1, taps)
        pool = Pooling(n, k, 1, conv.Q, 1, conv.Q)
        z, largest = (Matrix.empty(each.output_layout) for each in (conv, pool))
        call = bind_forward(conv, image, w, b, z)
        heights.append(_Height(conv, pool, z, largest, slice(end - k, end), call))
    return _Sequences(image, is_copied, heights)


def _backward(step: Step, gradient: Matrix) -> Gradients:
    x, dy = _vectors(step), rows_of(gradient)
    heights, positions = sequence_parameters(step.values)
    n, length, dim = x.shape
    dx = step.cached("dx", lambda: aligned_empty(x.shape))
    last = len(step.values) - 1
    if not n:
        for i, (w, b) in enumerate(heights):
            yield 2 * i + 1, Filters.zeros(w.shape)
            yield 2 * i + 2, np.zeros_like(b)
        yield last, store_gradient(step, last, np.zeros((positions.cols, length), np.float32))
        yield 0, dx
        return
    bound = _bound(step, x, list(accumulate(b.size for _, b in heights)))
    dimage = step.cached("dimage", partial(_gradient_image, bound.image, dx, bound.is_copied))
    for i, height in enumerate(bound.heights):
        yield from _height_backward(step, i, bound, dy[:, height.columns], dimage)
    if bound.is_copied:
        _copy(dimage, Matrix(dx.reshape(-1), Layout.plain(n * length, dim)))
    dsums = np.ascontiguousarray(dy[:, bound.heights[-1].columns.stop :])
    dw = step.cached("dpositions", lambda: np.empty((positions.cols, length), np.float32))
    shape = n, positions.cols, dim
    position_sums_backward(x, _weights(step), dsums.reshape(shape), dx, dw)
    yield last, store_gradient(step, last, dw)
    yield 0, dx


def _gradient_image(image: Matrix, dx: F32, is_copied: bool) -> Matrix:
    return Matrix.empty(image.layout) if is_copied else Matrix(dx.reshape(-1), image.layout)


def _height_backward(
    step: Step, number: int, bound: _Sequences, dy: F32, dimage: Matrix
) -> Gradients:
    """Yield the gradients of filters and bias of a height; add that of the image."""
    height = bound.heights[number]
    dlargest, dz = step.cached(("dz", number), partial(_gradients_of, height))
    before = np.where(height.maxima > 0, dy, np.float32(0))
    _rows(dlargest)[...] = before
    max_pool_backward(height.pool, height.z, height.largest, dlargest, dz)
    dw = step.cached(("dw", number), partial(Filters.zeros, step.values[2 * number + 1].shape))
    w, threads = step.values[2 * number + 1], get_threads()
    operands = bound.image, w, dz, dimage
    bind = partial(_bind_backward, height.conv, *operands, dw, number > 0)
    of_filters, of_image = step.cached_for(("backward", number, threads), operands, bind)
    of_filters()
    yield 2 * number + 1, dw
    db = step.cached(("db", number), lambda: np.empty(dy.shape[1], np.float32))
    db[...] = before.sum(axis=0, dtype=np.float64)
    yield 2 * number + 2, db
    of_image()


def _gradients_of(height: _Height) -> tuple[Matrix, Matrix]:
    """Return buffers of the gradients of the maxima, padding included, and of all positions."""
    dlargest = Matrix.empty(height.largest.layout)
    dlargest.data[:] = 0
    return dlargest, Matrix.empty(height.z.layout)


def _bind_backward(
    conv: Convolution,
    image: Matrix,
    w: Filters,
    dz: Matrix,
    dimage: Matrix,
    dw: Filters,
    accumulate: bool,
) -> tuple[Call, Call]:
    of_image = bind_backward_data(conv, dz, w, dimage, accumulate=accumulate)
    return bind_backward_weights(conv, image, dz, dw), of_image


def _positions_forward(step: Step) -> F32:
    (rows,), length = step.values, step.options["length"]
    shape = len(rows) // length, length, rows.shape[2]
    y: F32 = step.cached_for("y", (rows,), lambda: rows.reshape(shape))
    return y


def _positions_backward(step: Step, gradient: F32) -> Gradients:
    shape = step.values[0].shape
    if gradient.flags.c_contiguous:
        yield 0, step.cached_for("dx", (gradient,), lambda: gradient.reshape(shape))
        return
    dx = step.cached("copy", lambda: aligned_empty(shape))
    dx.reshape(gradient.shape)[...] = gradient
    yield 0, dx


RULES = (
    Rule("sequence_convolution", _forward, _backward),
    Rule("positions", _positions_forward, _positions_backward),
)
