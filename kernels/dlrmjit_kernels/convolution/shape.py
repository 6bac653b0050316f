"""What a convolution is, and how its images and filters are stored.

Images are stored as ``X[N][Cb][H][W][bc]`` and filters as ``W[Kb][Cb][R][S][bc][bk]``, so a row of
pixels of a block of channels is a small matrix with contiguous rows, and the filters of a block of
outputs are one panel. Both are matrices of the other kernels too: images have a row per pixel and a
column per channel.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.matrix.matrix import Floats, Layout, Matrix, aligned_floats, as_floats
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.target import current_target


class Windows:
    """Windows of R by S pixels on N images of C channels, H by W pixels.

    They are ``stride`` pixels apart, on images with ``padding`` pixels around them.
    """

    N: int
    C: int
    H: int
    W: int
    R: int
    S: int
    stride: int
    padding: int

    def check(self) -> None:
        """Raise ShapeError for sizes that are no positive integers, or windows that do not fit."""
        for name, value in vars(self).items():
            check_size(name, value, name != "padding")
        check_window((self.R, self.S), (self.H, self.W), self.padding)

    @property
    def P(self) -> int:  # noqa: N802 - the symbol of the literature
        """Rows of an output image."""
        return outputs(self.H, self.R, self.stride, self.padding)

    @property
    def Q(self) -> int:  # noqa: N802 - the symbol of the literature
        """Columns of an output image."""
        return outputs(self.W, self.S, self.stride, self.padding)

    @property
    def input_layout(self) -> Layout:
        """Layout of x, one row per pixel and one column per channel."""
        return image_layout(self.N, self.C, self.H, self.W)


@dataclass(frozen=True)
class Convolution(Windows):
    """N images of C channels, H by W pixels; K filters of R by S taps.

    Filters move by ``stride`` pixels over images that count as surrounded by ``padding`` zeros.

    Raises
    ------
    ShapeError
        For sizes that are not positive integers, or filters larger than the padded image.
    """

    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    stride: int = 1
    padding: int = 0

    def __post_init__(self) -> None:
        self.check()

    @property
    def output_layout(self) -> Layout:
        """Layout of y."""
        return image_layout(self.N, self.K, self.P, self.Q)

    @property
    def filter_layout(self) -> Layout:
        """Layout of w: a row per block of channels, tap and channel, a column per filter."""
        return _filter_layout(self.K, self.C, self.R, self.S)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one operation, those with padding included, as the field counts them."""
        return self.N * self.P * self.Q * self.K * self.C * self.R * self.S


def outputs(extent: int, taps: int, stride: int, padding: int) -> int:
    """Return the positions of a window along an axis."""
    return (extent + 2 * padding - taps) // stride + 1


def check_size(name: str, value: object, positive: bool) -> None:
    """Raise ShapeError unless ``value`` is an integer of at least 1, or 0 if not ``positive``."""
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer or int(value) < int(positive):  # type: ignore[call-overload]
        least = int(positive)
        raise ShapeError(f"{name} of images must be an integer from {least} on, not {value!r}")


def check_window(window: tuple[int, int], image: tuple[int, int], padding: int) -> None:
    """Raise ShapeError for a window of taps that is larger than the padded image."""
    for taps, extent in zip(window, image, strict=True):
        if taps > extent + 2 * padding:
            raise ShapeError(
                f"a window of {window[0]} x {window[1]} does not fit images of "
                f"{image[0]} x {image[1]} pixels with padding {padding}; choose a smaller one"
            )


def channel_block(channels: int) -> int:
    """Return the channels of a block: all, or as many as a register tile has columns."""
    return min(channels, current_target().nr)


def image_layout(images: int, channels: int, rows: int, cols: int) -> Layout:
    """Return the layout of images: blocks of channels of an image, each with all its pixels."""
    return _image_layout(images, channels, rows * cols, channel_block(channels))


@functools.lru_cache(maxsize=1024)
def _image_layout(images: int, channels: int, pixels: int, block: int) -> Layout:
    image = ceil_div(channels, block) * pixels * block
    return Layout(images * pixels, channels, pixels, block, image, pixels * block, block)


def images_matrix(images: NDArray[np.floating]) -> Matrix:
    """Return a copy of images (N, C, H, W) in blocks of channels."""
    source = as_floats(images)
    if source.ndim != 4:
        raise ShapeError(f"images must have axes N, C, H, W, not the shape {source.shape}")
    n, c, h, w = source.shape
    pixels = source.transpose(0, 2, 3, 1).reshape(n * h * w, c)
    return Matrix.empty(image_layout(n, c, h, w)).assign(pixels)


def images_array(matrix: Matrix, rows: int, cols: int) -> Floats:
    """Return a copy of a matrix of images of ``rows`` x ``cols`` pixels as (N, C, H, W)."""
    pixels = matrix.to_numpy().reshape(-1, rows, cols, matrix.cols)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def filters_matrix(filters: NDArray[np.floating]) -> Matrix:
    """Return a copy of filters (K, C, R, S) in blocks; missing channels of the last are zero."""
    source = as_floats(filters)
    if source.ndim != 4:
        raise ShapeError(f"filters must have axes K, C, R, S, not the shape {source.shape}")
    k, c, r, s = source.shape
    block = channel_block(c)
    blocks = ceil_div(c, block)
    padded = np.pad(source, ((0, 0), (0, blocks * block - c), (0, 0), (0, 0)))
    rows = padded.reshape(k, blocks, block, r, s).transpose(1, 3, 4, 2, 0).reshape(-1, k)
    return Matrix.empty(Layout.panels(len(rows), k, channel_block(k))).assign(rows)


class Filters(Matrix):
    """A matrix of K filters of R by S taps over C channels, in blocks, that knows its shape."""

    __slots__ = ("shape",)

    shape: tuple[int, int, int, int]

    def __init__(self, data: Floats, shape: tuple[int, int, int, int]) -> None:
        super().__init__(data, _filter_layout(*shape))
        object.__setattr__(self, "shape", shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return Filters, (self.data.copy(), self.shape)

    @classmethod
    def zeros(cls, shape: tuple[int, int, int, int]) -> Filters:
        """Return filters (K, C, R, S) that are zero, channels that pad the last block too."""
        data = aligned_floats(_filter_layout(*shape).span)
        data[:] = 0
        return cls(data, shape)

    def like(self, data: Floats | None = None) -> Filters:
        """Return filters of the same shape over ``data``, uninitialised by default."""
        return Filters(aligned_floats(self.layout.span) if data is None else data, self.shape)

    def assign_filters(self, filters: NDArray[np.floating]) -> Filters:
        """Copy an array (K, C, R, S) into the filters, and return them."""
        source = as_floats(filters)
        if source.shape != self.shape:
            raise ShapeError(
                f"an array of shape {source.shape} cannot be assigned to filters {self.shape}"
            )
        self.assign(filters_matrix(source).to_numpy())
        return self

    def filters(self) -> Floats:
        """Return a copy (K, C, R, S)."""
        _, c, r, s = self.shape
        return filters_array(self, c, (r, s))


def _filter_layout(k: int, c: int, r: int, s: int) -> Layout:
    block = channel_block(c)
    return Layout.panels(ceil_div(c, block) * r * s * block, k, channel_block(k))


def filters_array(matrix: Matrix, channels: int, window: tuple[int, int]) -> Floats:
    """Return a copy of a matrix of filters of ``window`` taps as (K, C, R, S)."""
    block = channel_block(channels)
    blocked = matrix.to_numpy().reshape(-1, *window, block, matrix.cols)
    whole = blocked.transpose(4, 0, 3, 1, 2).reshape(matrix.cols, -1, *window)
    return np.ascontiguousarray(whole[:, :channels])
