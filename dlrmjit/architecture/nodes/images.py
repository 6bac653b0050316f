"""Images in a model: columns of a matrix as images, convolutions, pooling, and back to a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dlrmjit.architecture.node import (
    Flops,
    Node,
    NormSpec,
    ParameterSpec,
    Recording,
    Shape,
    register_node,
    shapes_text,
)

ACTIVATIONS = ("relu", "sigmoid", "tanh", "none")
"""Activations that a convolution can have."""


def one_set_of_images(node: Node, inputs: Sequence[Shape]) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of the only input of a node, which must be images."""
    if len(inputs) != 1 or len(inputs[0]) != 3:
        raise node.refuse(shapes_text(inputs), "images as input")
    c, h, w = inputs[0]
    return c, h, w


def outputs(node: Node, image: Shape, window: Shape, stride: int, padding: int) -> tuple[int, int]:
    """Return the positions of windows down and across an image; raises ConfigError."""
    sizes = [(e + 2 * padding - t) // stride + 1 for e, t in zip(image, window, strict=True)]
    if min(sizes) < 1:
        text = f"windows of {window[0]} x {window[1]} pixels"
        found = f"images of {image[0]} x {image[1]} pixels with padding {padding}"
        raise node.refuse(found, f"images that {text} fit")
    return sizes[0], sizes[1]


def pair(size: int | Sequence[int]) -> tuple[int, ...]:
    """Return the sides of a window, of which one number is both."""
    return (size, size) if isinstance(size, int) else tuple(int(side) for side in size)


@register_node
@dataclass(frozen=True)
class Images(Node):
    """Images of a ``size`` (C, H, W): columns of the input from ``first`` on, by channels."""

    size: tuple[int, ...] = ()
    first: int = 0

    kind: ClassVar[str] = "images"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "size", tuple(int(v) for v in self.size))
        if len(self.size) != 3 or min(self.size) < 1 or self.first < 0:
            found = f"{self.size} and {self.first}"
            raise self.refuse(found, "a positive size (C, H, W) and a first column")

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return (C, H, W)."""
        width, needed = self.one_matrix(inputs), self.first + math.prod(self.size)
        if width < needed:
            raise self.refuse(f"one of width {width}", f"an input of {needed} columns")
        return self.size

    def record(self, recording: Recording) -> Any:
        """Record the copy."""
        return recording.apply("images", *recording.inputs, shape=self.size, first=self.first)


@register_node
@dataclass(frozen=True)
class Convolution(Node):
    """``filters`` filters over images, and an activation.

    Parameters
    ----------
    filters : channels K of the result
    window : sides (R, S) of a filter, or one number
    stride : pixels from a position to the next
    padding : zeros around an image
    activation : ``relu``, ``sigmoid``, ``tanh`` or ``none``
    batch_norm : whether channels are normalised over batch and pixels before it; then there is no
        bias
    """

    filters: int = 0
    window: int | tuple[int, ...] = 3
    stride: int = 1
    padding: int = 0
    activation: str = "relu"
    batch_norm: bool = False

    kind: ClassVar[str] = "convolution"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "window", pair(self.window))
        sides = pair(self.window)
        if len(sides) != 2 or min(self.filters, self.stride, *sides) < 1 or self.padding < 0:
            found = f"{self.filters} filters of {sides}, stride {self.stride}"
            raise self.refuse(found, "positive filters, window and stride, and padding from 0 on")
        if self.activation not in ACTIVATIONS:
            raise self.refuse(self.activation, f"an activation of {', '.join(ACTIVATIONS)}")

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return (K, P, Q)."""
        _, *image = one_set_of_images(self, inputs)
        places = outputs(self, tuple(image), pair(self.window), self.stride, self.padding)
        return (self.filters, *places)

    def parameters(self, inputs: Sequence[Shape]) -> tuple[ParameterSpec, ...]:
        """Return the filters, and a bias without batch normalisation."""
        c, _, _ = one_set_of_images(self, inputs)
        r, s = pair(self.window)
        weight = ParameterSpec("weight", (self.filters, c, r, s), math.sqrt(2 / (c * r * s)))
        return (weight,) if self.batch_norm else (weight, ParameterSpec("bias", (self.filters,)))

    def norms(self) -> tuple[NormSpec, ...]:
        """Return the normalisation, if there is one."""
        return (NormSpec("norm", self.filters),) if self.batch_norm else ()

    def record(self, recording: Recording) -> Any:
        """Record the convolution, and its normalisation."""
        _, *image = one_set_of_images(self, recording.shapes)
        own = (recording.parameter(spec.name) for spec in self.parameters(recording.shapes))
        z = recording.apply(
            "convolution",
            *(*recording.inputs, *own),
            image=tuple(image),
            stride=self.stride,
            padding=self.padding,
            activation="none" if self.batch_norm else self.activation,
        )
        return recording.batch_norm(z, "norm", self.activation) if self.batch_norm else z

    def flops(self, inputs: Sequence[Shape], with_input_gradient: bool) -> Flops:
        """Return two per tap and output, padding included, and as many for each gradient."""
        weight, *_ = self.parameters(inputs)
        _, p, q = self.shape(inputs)
        forward = 2.0 * weight.elements * p * q
        return Flops(forward, forward * (2 if with_input_gradient else 1))

    def elements(self, inputs: Sequence[Shape]) -> int:
        """Return the result, and that before normalisation."""
        return (1 + self.batch_norm) * math.prod(self.shape(inputs))


@register_node
@dataclass(frozen=True)
class Pooling(Node):
    """The ``max`` or ``average`` of windows of images; padding is in no window.

    A ``window`` of 0 is the whole image. ``stride`` 0 is the smaller side of the window.
    """

    window: int | tuple[int, ...] = 2
    stride: int = 0
    padding: int = 0
    operation: str = "max"

    kind: ClassVar[str] = "pooling"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "window", pair(self.window))
        sides = pair(self.window)
        is_window = len(sides) == 2 and (min(sides) > 0 or max(sides) == 0 == min(sides))
        if not is_window or min(self.stride, self.padding) < 0:
            found = f"{sides}, stride {self.stride} and padding {self.padding}"
            raise self.refuse(found, "a positive window or 0, stride and padding from 0 on")
        if min(sides) and 2 * self.padding > min(sides):
            raise self.refuse(self.padding, "a padding of at most half the window")
        if self.operation not in ("max", "average"):
            raise self.refuse(self.operation, "the operation max or average")

    def _windows(self, image: Shape) -> tuple[tuple[int, ...], int, int]:
        """Return window, stride and padding."""
        sides = pair(self.window)
        if not min(sides):
            return tuple(image), 1, 0
        return sides, self.stride or min(sides), self.padding

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return (C, P, Q)."""
        c, *image = one_set_of_images(self, inputs)
        return (c, *outputs(self, tuple(image), *self._windows(tuple(image))))

    def record(self, recording: Recording) -> Any:
        """Record one operation."""
        _, *image = one_set_of_images(self, recording.shapes)
        window, stride, padding = self._windows(tuple(image))
        return recording.apply(
            "pooling",
            *recording.inputs,
            image=tuple(image),
            window=window,
            stride=stride,
            padding=padding,
            largest=self.operation == "max",
        )


@register_node
@dataclass(frozen=True)
class Flatten(Node):
    """Images as a matrix of C * H * W columns, channel by channel."""

    kind: ClassVar[str] = "flatten"

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the number of columns."""
        return (math.prod(one_set_of_images(self, inputs)),)

    def record(self, recording: Recording) -> Any:
        """Record the copy, which images of one pixel do without."""
        return recording.apply("flatten", *recording.inputs, shape=recording.shapes[0])
