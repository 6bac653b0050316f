"""Matrices and vectors side by side in one matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dlrmjit.architecture.node import Node, Recording, Shape, register_node, shapes_text


@register_node
@dataclass(frozen=True)
class Concat(Node):
    """All inputs in order, vectors (F, E) as F * E columns."""

    kind: ClassVar[str] = "concat"
    joins: ClassVar[bool] = True

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the sum of all widths."""
        if not inputs or any(len(shape) > 2 for shape in inputs):
            raise self.refuse(shapes_text(inputs), "matrices or vectors as inputs")
        return (sum(math.prod(shape) for shape in inputs),)

    def record(self, recording: Recording) -> Any:
        """Record the copies of those inputs that are not in the block yet."""
        return recording.apply("concat", *recording.inputs, block=recording.block)
