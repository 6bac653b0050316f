"""DLRM's interaction: pairwise products of vectors, or all of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dlrmjit.architecture.node import Flops, Node, Recording, Shape, register_node, shapes_text


@register_node
@dataclass(frozen=True)
class Interaction(Node):
    """``dot`` products of all pairs after x, the first input, or ``cat`` of all vectors.

    The inputs are vectors (S, E), or x of width E followed by such vectors; more vectors may
    follow, and matrices of width E, which are one vector each, as those of towers. ``itself``
    includes the product of each vector with itself.
    """

    operation: str = "dot"
    itself: bool = False

    kind: ClassVar[str] = "interaction"
    joins: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.operation not in ("dot", "cat"):
            raise self.refuse(self.operation, "the operation dot or cat")

    @property
    def any_layout(self) -> bool:
        """Products of pairs read their gradient in any layout."""
        return self.operation == "dot"

    @property
    def label(self) -> str:
        """All interactions are one line of a profile."""
        return "interaction"

    def _sizes(self, inputs: Sequence[Shape]) -> tuple[bool, int, int]:
        """Return whether there is an x, the number F of vectors, and their width E."""
        has_dense = len(inputs) > 1 and len(inputs[0]) == 1
        first = (inputs[has_dense:] or [()])[0]
        is_vectors = len(first) == 2 and all(len(shape) < 3 for shape in inputs)
        if not is_vectors or any(shape[-1] != first[1] for shape in inputs):
            raise self.refuse(shapes_text(inputs), "vectors, or a matrix of their width and them")
        count = sum(shape[0] if len(shape) == 2 else 1 for shape in inputs)
        return has_dense, count, first[1]

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the width of x and of the pairs, or of all vectors."""
        has_dense, features, dim = self._sizes(inputs)
        if self.operation == "cat":
            return (features * dim,)
        pairs = features * (features - 1) // 2 + (features if self.itself else 0)
        width = (dim if has_dense else 0) + pairs
        if not width:
            raise self.refuse("one", "two vectors, itself=True, or the operation cat")
        return (width,)

    def record(self, recording: Recording) -> Any:
        """Record the interaction of the vectors in the block."""
        return recording.apply(
            "interaction",
            *recording.inputs,
            kind=self.operation,
            itself=self.itself,
            buffers=recording.block,
        )

    def flops(self, inputs: Sequence[Shape], with_input_gradient: bool) -> Flops:
        """Return full F x F products, forward once and backward twice."""
        _, features, dim = self._sizes(inputs)
        square = 2.0 * features**2 * dim if self.operation == "dot" else 0.0
        return Flops(square, 2 * square)

    def elements(self, inputs: Sequence[Shape]) -> int:
        """Return the result, and x in the block of vectors."""
        has_dense, _, dim = self._sizes(inputs)
        return self.shape(inputs)[0] + (dim if has_dense else 0)
