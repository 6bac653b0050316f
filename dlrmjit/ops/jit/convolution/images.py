"""Rules of the compiled backend for images: convolutions and pooling, bound once per tape.

See :mod:`dlrmjit.ops.image_shapes` for their inputs and options.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from dlrmjit_kernels.convolution.direct import (
    bind_backward_data,
    bind_backward_weights,
    bind_forward,
)
from dlrmjit_kernels.convolution.pixels import images_of_rows, rows_of_images
from dlrmjit_kernels.convolution.pooling import (
    Pooling,
    average_pool,
    average_pool_backward,
    max_pool,
    max_pool_backward,
)
from dlrmjit_kernels.convolution.shape import Convolution, Filters, image_layout
from dlrmjit_kernels.layers.batch_norm import gradient_sums
from dlrmjit_kernels.layers.elementwise import bind_activation_backward
from dlrmjit_kernels.layers.fully_connected import activation_code
from dlrmjit_kernels.matrix.matrix import Layout, Matrix
from dlrmjit_kernels.runtime.compile import Call
from dlrmjit_kernels.runtime.threads import get_threads
from numpy.typing import NDArray

from dlrmjit.autograd.flow import Total
from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.image_shapes import ConvInputs
from dlrmjit.ops.jit.convolution.gradients import gradient_buffer, input_gradient
from dlrmjit.ops.jit.join import rows_of

Gradients = Iterator[tuple[int, Any]]


class _Backward(NamedTuple):
    """The calls of the gradients of the filters and of the input, and that of the filters."""

    of_filters: Call
    of_input: Call | None
    before: Call | None
    dw: Filters


def _images_forward(step: Step) -> Matrix:
    rows, shape = _rows_matrix(step.values[0]), step.options["shape"]
    layout = image_layout(rows.rows, *shape)
    images = step.cached("images", partial(Matrix.empty, layout))
    images_of_rows(rows, step.options["first"], shape, images)
    return images


def _images_backward(step: Step, gradient: Matrix) -> Gradients:
    rows = step.values[0].rows, step.values[0].cols
    dx = step.cached("dx", lambda: Matrix.view(np.zeros(rows, np.float32)))
    rows_of_images(gradient, step.options["shape"], dx, step.options["first"])
    yield 0, dx


def _rows_matrix(value: Matrix) -> Matrix:
    """Return a matrix in contiguous rows, without a copy if it is stored so."""
    in_rows = value.layout.row_blocks <= 1 and value.layout.col_blocks <= 1
    return value if in_rows else Matrix.view(rows_of(value))


def _flatten_forward(step: Step) -> Matrix:
    (images,), (c, h, w) = step.values, step.options["shape"]
    n = images.rows // (h * w)
    if h * w == 1:  # the pixels of an image are its row already
        stride = images.layout.block_row_stride
        return step.cached_for("y", (images,), partial(_view, images, n, c, stride))
    y = step.cached("y", lambda: Matrix.view(np.empty((n, c * h * w), np.float32)))
    rows_of_images(images, (c, h, w), y, 0)
    return y


def _view(images: Matrix, n: int, c: int, stride: int) -> Matrix:
    return Matrix(images.data, Layout.plain(n, c, stride))


def _flatten_backward(step: Step, gradient: Matrix) -> Gradients:
    dx = step.cached("dx", partial(Matrix.empty, step.values[0].layout))
    images_of_rows(_rows_matrix(gradient), 0, step.options["shape"], dx)
    yield 0, dx


def _convolution(step: Step) -> Convolution:
    x, w, *_ = ConvInputs.of(step)
    h, width = step.options["image"]
    k, c, r, s = w.shape
    n = max(1, x.rows // (h * width))  # of no images, the sizes of one are asked for
    return Convolution(n, c, h, width, k, r, s, step.options["stride"], step.options["padding"])


def _conv_forward(step: Step) -> Matrix:
    if not step.values[0].rows:
        return _no_images(_convolution(step), step.values[1].shape[0])
    call, y = step.cached_for(("forward", get_threads()), step.values, partial(_bind, step))
    residual = ConvInputs.of(step).residual
    if residual is not None and y is not residual:
        np.copyto(y.data[: y.layout.span], residual.data[: y.layout.span])
    call()
    return y


def _bind(step: Step) -> tuple[Call, Matrix]:
    conv, (x, w, b, residual) = _convolution(step), ConvInputs.of(step)
    if residual is not None and not step.output.requires_grad:
        y = residual
    else:
        y = step.cached("y", partial(Matrix.empty, conv.output_layout))
    has_residual = residual is not None
    return bind_forward(conv, x, w, b, y, step.options["activation"], has_residual), y


def _no_images(windows: Convolution | Pooling, channels: int) -> Matrix:
    """Return the result for a batch without samples, which a rank may have."""
    return Matrix.empty(image_layout(0, channels, windows.P, windows.Q))


def _conv_backward(step: Step, gradient: Matrix) -> Gradients:
    if not step.values[0].rows:
        yield from _nothing(step, gradient)
        return
    layout, y = step.values[0].layout, step.output.data
    dx, adds = input_gradient(step, 0, layout) if step.wants(0) else (None, False)
    bind = partial(_bind_backward, step, gradient, dx, adds)
    operands = (*step.values, y, gradient, dx)
    bound = step.cached_for(("backward", get_threads(), adds), operands, bind)
    if bound.before is not None:
        bound.before()
    bound.of_filters()
    yield 1, bound.dw
    _, _, b, residual = ConvInputs.of(step)
    if b is not None:
        yield 2, _column_sums(step, gradient)
    if bound.of_input is not None:
        bound.of_input()
        yield 0, Total(dx) if adds else dx
    if residual is not None:
        yield len(step.values) - 1, gradient


def _nothing(step: Step, gradient: Matrix) -> Gradients:
    """Yield the gradients of a batch without samples."""
    x, w, b, residual = ConvInputs.of(step)
    yield 1, step.cached("dw", partial(Filters.zeros, w.shape))
    if b is not None:
        yield 2, np.zeros_like(b)
    yield 0, x
    if residual is not None:
        yield len(step.values) - 1, gradient


def _bind_backward(step: Step, dz: Matrix, dx: Matrix | None, adds: bool) -> _Backward:
    """Bind the gradients; that before the activation overwrites the result's."""
    conv, (x, w, *_) = _convolution(step), ConvInputs.of(step)
    code = activation_code(step.options["activation"])
    before = bind_activation_backward(step.output.data, dz, dz, code) if code else None
    dw = step.cached("dw", partial(Filters.zeros, w.shape))
    of_input = bind_backward_data(conv, dz, w, dx, accumulate=adds) if dx else None
    return _Backward(bind_backward_weights(conv, x, dz, dw), of_input, before, dw)


def _column_sums(step: Step, dz: Matrix) -> NDArray[np.float32]:
    """Return the gradient of a bias, in the same array for every replay."""
    db: NDArray[np.float32] = step.cached("db", lambda: np.empty(dz.cols, np.float32))
    db[...] = gradient_sums(dz, dz, dz, np.zeros(dz.cols), "none")[0]
    return db


def _pool(step: Step) -> Pooling:
    (x,), (h, w) = step.values, step.options["image"]
    n, (r, s) = max(1, x.rows // (h * w)), step.options["window"]
    return Pooling(n, x.cols, h, w, r, s, step.options["stride"], step.options["padding"])


def _pool_forward(step: Step) -> Matrix:
    if not step.values[0].rows:
        return _no_images(_pool(step), step.values[0].cols)
    pool = step.cached("pool", partial(_pool, step))
    y = step.cached("y", partial(Matrix.empty, pool.output_layout))
    (max_pool if step.options["largest"] else average_pool)(pool, step.values[0], y)
    return y


def _pool_backward(step: Step, gradient: Matrix) -> Gradients:
    (x,), pool = step.values, step.memory.get("pool")
    if pool is None:
        yield 0, x
        return
    dx = gradient_buffer(step, 0, pool.input_layout)
    if step.options["largest"]:
        max_pool_backward(pool, x, step.output.data, gradient, dx)
    else:
        average_pool_backward(pool, gradient, dx)
    yield 0, dx


RULES = (
    Rule("images", _images_forward, _images_backward),
    Rule("flatten", _flatten_forward, _flatten_backward),
    Rule("convolution", _conv_forward, _conv_backward),
    Rule("pooling", _pool_forward, _pool_backward),
)
