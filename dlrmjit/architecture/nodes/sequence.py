"""Convolutions of the vectors of a sequence, such as the last clicks (Caser, arXiv 1809.07426)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dlrmjit.architecture.node import Flops, Node, ParameterSpec, Recording, Shape, register_node


@register_node
@dataclass(frozen=True)
class SequenceConvolution(Node):
    """Tang and Wang's horizontal and vertical filters over L vectors (L, E), and a layer over both.

    A horizontal filter spans h vectors whole; its result is the rectified maximum over all places.
    A vertical one sums the vectors with a weight for each position. A fully connected layer with
    ReLU makes ``width`` numbers of them, by default E, so that they can be one more vector of an
    interaction.

    Parameters
    ----------
    heights : heights h of the horizontal filters, each at most L; by default 1, 2, ..., L
    filters : horizontal filters of each height
    vertical : vertical filters
    width : outputs
    """

    heights: tuple[int, ...] = ()
    filters: int = 16
    vertical: int = 4
    width: int = 0

    kind: ClassVar[str] = "sequence_convolution"
    fills_block: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "heights", tuple(int(h) for h in self.heights))
        if min(self.filters, self.vertical, *self.heights, 1) < 1 or self.width < 0:
            found = f"{self.heights}, {self.filters}, {self.vertical} and {self.width}"
            raise self.refuse(found, "positive heights, numbers of filters and width")

    def _sizes(self, inputs: Sequence[Shape]) -> tuple[int, int, tuple[int, ...]]:
        """Return L, E and the heights."""
        length, dim = self.one_set_of_vectors(inputs)
        heights = self.heights or tuple(range(1, length + 1))
        if max(heights) > length:
            raise self.refuse(heights, f"heights of at most {length}, the vectors of a sequence")
        return length, dim, heights

    def _features(self, inputs: Sequence[Shape]) -> int:
        _, dim, heights = self._sizes(inputs)
        return self.filters * len(heights) + self.vertical * dim

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the width."""
        _, dim, _ = self._sizes(inputs)
        return (self.width or dim,)

    def parameters(self, inputs: Sequence[Shape]) -> tuple[ParameterSpec, ...]:
        """Return filters and biases of every height, vertical filters, and the layer over both."""
        length, dim, heights = self._sizes(inputs)
        specs = []
        for h in heights:
            shape, name = (self.filters, dim, 1, h), f"horizontal.{h}"
            specs.append(ParameterSpec(f"{name}.weight", shape, math.sqrt(2 / (dim * h))))
            specs.append(ParameterSpec(f"{name}.bias", (self.filters,)))
        specs.append(
            ParameterSpec("vertical.weight", (self.vertical, length), math.sqrt(1 / length))
        )
        (width,), features = self.shape(inputs), self._features(inputs)
        std = math.sqrt(2 / (features + width))
        specs.append(ParameterSpec("fc.weight", (width, features), std))
        specs.append(ParameterSpec("fc.bias", (width,)))
        return tuple(specs)

    def record(self, recording: Recording) -> Any:
        """Record the filters, and the layer over their results."""
        *filters, weight, bias = (
            recording.parameter(spec.name) for spec in self.parameters(recording.shapes)
        )
        features = recording.apply("sequence_convolution", *recording.inputs, *filters)
        return recording.apply(
            "mlp", features, weight, bias, activations=("relu",), out=recording.out
        )

    def flops(self, inputs: Sequence[Shape], with_input_gradient: bool) -> Flops:
        """Return two per tap of a filter and place, and as many for each gradient."""
        length, dim, heights = self._sizes(inputs)
        horizontal = sum(2.0 * self.filters * dim * h * (length - h + 1) for h in heights)
        vertical = 2.0 * self.vertical * length * dim
        layer = 2.0 * self._features(inputs) * self.shape(inputs)[0]
        unneeded = 0.0 if with_input_gradient else horizontal + vertical
        forward = horizontal + vertical + layer
        return Flops(forward, 2 * forward - unneeded)

    def elements(self, inputs: Sequence[Shape]) -> int:
        """Return the results of filters at all places, their maxima, sums, and the output."""
        length, _, heights = self._sizes(inputs)
        places = sum(self.filters * (length - h + 1) for h in heights)
        return places + 2 * self._features(inputs) + self.shape(inputs)[0]
