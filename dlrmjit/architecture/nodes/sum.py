"""The sum of matrices and vectors: the logit of linear models and of models with several parts."""

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
class Sum(Node):
    """The sum of all inputs: matrices (N, E), and vectors (N, F, E) summed over F.

    ``bias`` adds a parameter (E,).
    """

    bias: bool = False

    kind: ClassVar[str] = "sum"
    sums_vectors: ClassVar[bool] = True

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the width that all inputs have."""
        widths = {shape[-1] for shape in inputs}
        if len(widths) != 1:
            raise self.refuse(shapes_text(inputs), "inputs of one width")
        return (widths.pop(),)

    def parameters(self, inputs: Sequence[Shape]) -> tuple[ParameterSpec, ...]:
        """Return the bias, if there is one."""
        return (ParameterSpec("bias", self.shape(inputs)),) if self.bias else ()

    def record(self, recording: Recording) -> Any:
        """Record one operation."""
        bias = [recording.parameter("bias")] if self.bias else []
        return recording.apply("sum", *recording.inputs, *bias)
