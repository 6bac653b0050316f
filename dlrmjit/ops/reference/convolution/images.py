"""Rules of the reference backend for images, in NumPy: windows of images (N, H, W, C).

See :mod:`dlrmjit.ops.image_shapes` for their inputs and options.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.backend import FloatArray
from dlrmjit.ops.image_shapes import ConvInputs
from dlrmjit.ops.reference.activations import activate, before_activation

Gradients = Iterator[tuple[int, Any]]


class Windows(NamedTuple):
    """Windows of R by S pixels of images with ``padding`` pixels around them."""

    window: tuple[int, int]
    stride: int
    padding: int

    def of(self, images: FloatArray, fill: float = 0.0) -> FloatArray:
        """Return the windows (N, P, Q, C, R, S) of images (N, H, W, C)."""
        edge = (self.padding, self.padding)
        padded = np.pad(images, ((0, 0), edge, edge, (0, 0)), constant_values=fill)
        every: FloatArray = np.lib.stride_tricks.sliding_window_view(padded, self.window, (1, 2))
        return every[:, :: self.stride, :: self.stride]

    def add_up(self, windows: FloatArray, image: tuple[int, int]) -> FloatArray:
        """Return images (N, H, W, C) in which every pixel is the sum of those of its windows."""
        n, p, q, c, r, s = windows.shape
        (h, w), edge, u = image, self.padding, self.stride
        images = np.zeros((n, h + 2 * edge, w + 2 * edge, c), windows.dtype)
        for i in range(r):
            for j in range(s):
                images[:, i : i + u * p : u, j : j + u * q : u] += windows[..., i, j]
        return images[:, edge : edge + h, edge : edge + w]


def _images_of(rows: FloatArray, image: tuple[int, int]) -> FloatArray:
    """Return images (N, H, W, C) of rows of pixels."""
    return rows.reshape(len(rows) // (image[0] * image[1]), *image, rows.shape[1])


def _pixels_of(images: FloatArray) -> FloatArray:
    n, h, w, c = images.shape
    return images.reshape(n * h * w, c)


def _windows(step: Step, window: tuple[int, int]) -> Windows:
    return Windows(window, step.options["stride"], step.options["padding"])


def _images_forward(step: Step) -> FloatArray:
    (rows,), (c, h, w), first = step.values, step.options["shape"], step.options["first"]
    images = rows[:, first : first + c * h * w].reshape(len(rows), c, h, w)
    return _pixels_of(images.transpose(0, 2, 3, 1))


def _images_backward(step: Step, gradient: FloatArray) -> Gradients:
    (rows,), (c, h, w), first = step.values, step.options["shape"], step.options["first"]
    dx = np.zeros_like(rows)
    dx[:, first : first + c * h * w] = _flat(gradient, (c, h, w))
    yield 0, dx


def _flat(pixels: FloatArray, shape: tuple[int, int, int]) -> FloatArray:
    """Return images as rows (N, C * H * W)."""
    c, h, w = shape
    images = _images_of(pixels, (h, w))
    rows: FloatArray = images.transpose(0, 3, 1, 2).reshape(len(images), c * h * w)
    return rows


def _flatten_forward(step: Step) -> FloatArray:
    return _flat(step.values[0], step.options["shape"])


def _flatten_backward(step: Step, gradient: FloatArray) -> Gradients:
    c, h, w = step.options["shape"]
    images = gradient.reshape(len(gradient), c, h, w)
    yield 0, _pixels_of(images.transpose(0, 2, 3, 1))


def _conv_forward(step: Step) -> FloatArray:
    x, w, b, residual = ConvInputs.of(step)
    windows = _windows(step, w.shape[2:]).of(_images_of(x, step.options["image"]))
    z = _pixels_of(np.tensordot(windows, w, ((3, 4, 5), (1, 2, 3))))
    z = z if b is None else z + b
    z = z if residual is None else z + residual
    y, step.memory["stored"] = activate(z, step.options["activation"])
    return y


def _conv_backward(step: Step, gradient: FloatArray) -> Gradients:
    x, w, b, residual = ConvInputs.of(step)
    rows = before_activation(gradient, step.memory["stored"], step.options["activation"])
    windows, image = _windows(step, w.shape[2:]), step.options["image"]
    views = windows.of(_images_of(x, image))
    dz = rows.reshape(*views.shape[:3], len(w))
    yield 1, np.tensordot(dz, views, ((0, 1, 2), (0, 1, 2)))
    if b is not None:
        yield 2, rows.sum(axis=0)
    if step.wants(0):
        yield 0, _pixels_of(windows.add_up(np.tensordot(dz, w, (3, 0)), image))
    if residual is not None:
        yield len(step.values) - 1, rows


def _pool_windows(step: Step, fill: float) -> tuple[Windows, FloatArray]:
    windows, (x,) = _windows(step, step.options["window"]), step.values
    return windows, windows.of(_images_of(x, step.options["image"]), fill)


def _pool_forward(step: Step) -> FloatArray:
    if step.options["largest"]:
        return _pixels_of(_pool_windows(step, -np.inf)[1].max(axis=(4, 5)))
    _, views = _pool_windows(step, 0.0)
    means: FloatArray = views.sum(axis=(4, 5)) / _counts(step, views)
    return _pixels_of(means)


def _counts(step: Step, views: FloatArray) -> FloatArray:
    """Return the number of pixels (P, Q, 1) of every window that are inside the image."""
    ones = np.ones((1, *step.options["image"], 1), views.dtype)
    counts: FloatArray = _windows(step, step.options["window"]).of(ones).sum(axis=(4, 5))[0]
    return counts


def _pool_backward(step: Step, gradient: FloatArray) -> Gradients:
    largest = step.options["largest"]
    windows, views = _pool_windows(step, -np.inf if largest else 0.0)
    dy = gradient.reshape(views.shape[:4])
    if largest:
        shares = _first_largest(views)
    else:
        shares = np.broadcast_to((1 / _counts(step, views))[None, ..., None, None], views.shape)
    yield 0, _pixels_of(windows.add_up(dy[..., None, None] * shares, step.options["image"]))


def _first_largest(views: FloatArray) -> FloatArray:
    """Return 1 at the first pixel of every window with its maximum, 0 elsewhere."""
    flat = views.reshape(*views.shape[:4], views.shape[4] * views.shape[5])
    shares = np.zeros_like(flat)
    np.put_along_axis(shares, flat.argmax(axis=4)[..., None], 1, axis=4)
    return shares.reshape(views.shape)


RULES = (
    Rule("images", _images_forward, _images_backward),
    Rule("flatten", _flatten_forward, _flatten_backward),
    Rule("convolution", _conv_forward, _conv_backward),
    Rule("pooling", _pool_forward, _pool_backward),
)
