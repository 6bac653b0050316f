"""Cross layers (Wang et al., arXiv 2008.13535 and 1708.05123)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dlrmjit.architecture.node import (
    Flops,
    Node,
    ParameterSpec,
    Recording,
    Shape,
    register_node,
)


@register_node
@dataclass(frozen=True)
class Cross(Node):
    """``layers`` cross layers over one matrix x0 of width C.

    ``rank`` r > 0: x' = x0 * (W (V x) + b) + x with W (C, r) and V (r, C), as DCNv2 with low rank;
    ``rank`` 0: x' = x0 * (W x + b) + x with W (C, C);
    ``vector``: x' = x0 (w x) + b + x with one vector w (1, C), as the first DCN.
    """

    layers: int = 3
    rank: int = 0
    vector: bool = False

    kind: ClassVar[str] = "cross"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers < 1:
            raise self.refuse(self.layers, "at least one layer")
        if self.rank < 0 or (self.rank and self.vector):
            raise self.refuse(self.rank, "a rank of at least 0, which is 0 for a vector")

    @property
    def any_layout(self) -> bool:
        """Matrices with matrices may be in blocks; vectors are rules of arrays."""
        return not self.vector

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the width of the input."""
        return (self.one_matrix(inputs),)

    def parameters(self, inputs: Sequence[Shape]) -> tuple[ParameterSpec, ...]:
        """Return the weights of every layer by Glorot's rule, and biases of 0."""
        c = self.one_matrix(inputs)
        specs = []
        for i in range(self.layers):
            for name, shape in self._weights(c):
                std = math.sqrt(2 / sum(shape))
                specs.append(ParameterSpec(f"{i}.{name}", shape, std))
            specs.append(ParameterSpec(f"{i}.bias", (c,)))
        return tuple(specs)

    def _weights(self, c: int) -> tuple[tuple[str, Shape], ...]:
        if self.vector:
            return (("weight", (1, c)),)
        if self.rank:
            return ("V", (self.rank, c)), ("W", (c, self.rank))
        return (("W", (c, c)),)

    def record(self, recording: Recording) -> Any:
        """Record all layers as one operation."""
        specs = self.parameters(recording.shapes)
        parameters = (recording.parameter(spec.name) for spec in specs)
        rule = "cross_vector" if self.vector else "cross"
        return recording.apply(
            rule,
            *recording.inputs,
            *parameters,
            layers=self.layers,
            input_gradient=recording.input_gradient,
        )

    def flops(self, inputs: Sequence[Shape], with_input_gradient: bool) -> Flops:
        """Return two per element of every weight, and twice as many backward."""
        weights = sum(math.prod(shape) for _, shape in self._weights(self.one_matrix(inputs)))
        forward = 2.0 * self.layers * weights
        return Flops(forward, 2 * forward)

    def elements(self, inputs: Sequence[Shape]) -> int:
        """Return what every layer stores: V x, the product and the result; and the input again."""
        c = self.one_matrix(inputs)
        return c + self.layers * (2 * c + self.rank)
