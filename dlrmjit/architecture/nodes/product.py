"""Products of two sets of vectors: TorchRec's projections, and the score of two towers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dlrmjit.architecture.node import (
    Flops,
    Node,
    Recording,
    Shape,
    register_node,
    shapes_text,
)


@register_node
@dataclass(frozen=True)
class Product(Node):
    """The product of two matrices per sample, as one row.

    The inputs are matrices of F1 * D and D * F2 columns; a sample's are read as (F1, D) and
    (D, F2), and their product (F1, F2) has F1 * F2 columns. ``dim`` is D; by default the whole
    width, so that the product of two equally wide inputs is their scalar product.
    """

    dim: int = 0

    kind: ClassVar[str] = "product"

    def _sizes(self, inputs: Sequence[Shape]) -> tuple[int, int, int]:
        """Return F1, D and F2."""
        if len(inputs) != 2 or any(len(shape) != 1 for shape in inputs):
            raise self.refuse(shapes_text(inputs), "two matrices as inputs")
        (a,), (b,) = inputs
        dim = self.dim or a
        if dim < 1 or a % dim or b % dim:
            raise self.refuse(shapes_text(inputs), f"two inputs whose widths {dim} divides")
        return a // dim, dim, b // dim

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return F1 * F2."""
        first, _, second = self._sizes(inputs)
        return (first * second,)

    def record(self, recording: Recording) -> Any:
        """Record one operation."""
        _, dim, _ = self._sizes(recording.shapes)
        return recording.apply("product", *recording.inputs, dim=dim)

    def flops(self, inputs: Sequence[Shape], with_input_gradient: bool) -> Flops:
        """Return those of the products, forward once and backward twice."""
        first, dim, second = self._sizes(inputs)
        forward = 2.0 * first * dim * second
        return Flops(forward, 2 * forward)
