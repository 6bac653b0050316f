"""The sum of two matrices, normalised over the columns: what follows a layer of a transformer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dlrmjit.architecture.node import (
    Node,
    ParameterSpec,
    Recording,
    Shape,
    register_node,
    shapes_text,
)


@register_node
@dataclass(frozen=True)
class AddNorm(Node):
    """Layer normalisation of the sum of two matrices, with a scale and a shift per column."""

    kind: ClassVar[str] = "add_norm"

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the width that both inputs have."""
        if len(inputs) != 2 or inputs[0] != inputs[1] or len(inputs[0]) != 1:
            raise self.refuse(shapes_text(inputs), "two matrices of one width")
        return inputs[0]

    def parameters(self, inputs: Sequence[Shape]) -> tuple[ParameterSpec, ...]:
        """Return the scale, at first 1, and the shift."""
        shape = self.shape(inputs)
        return ParameterSpec("weight", shape, value=1.0), ParameterSpec("bias", shape)

    def record(self, recording: Recording) -> Any:
        """Record one operation."""
        scale, shift = (recording.parameter(name) for name in ("weight", "bias"))
        return recording.apply("add_norm", *recording.inputs, scale, shift)

    def elements(self, inputs: Sequence[Shape]) -> int:
        """Return the result, and the sum."""
        return 2 * self.shape(inputs)[0]
