"""Matrices and vectors side by side in one matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dlrmjit.architecture.node import Node, Recording, Shape, register_node


@register_node
@dataclass(frozen=True)
class Concat(Node):
    """All inputs in order, vectors (F, E) as F * E columns."""

    kind: ClassVar[str] = "concat"
    joins: ClassVar[bool] = True

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the sum of all widths."""
        if not inputs:
            raise self.refuse("none", "inputs")
        return (sum(math.prod(shape) for shape in inputs),)

    def record(self, recording: Recording) -> Any:
        """Record the copies of those inputs that are not in the block yet."""
        return recording.apply("concat", *recording.inputs, block=recording.block)
