"""The projection of narrow embeddings to the common width, for the compiled backend.

A narrow table's pooled vectors (N, d) stand in the first d columns of its slot (N, E); its
projection replaces them there, and the backward pass does the same with the gradient. So the
interaction, and whatever carries pooled vectors between ranks, sees one block for any widths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from dlrmjit_kernels.layers.fully_connected import fc_backward_data, fc_backward_weights, fc_forward
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.runtime.buffers import aligned_empty
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.jit.bf16_rounding import is_rounded

Gradients = Iterator[tuple[int, Any]]
F32 = NDArray[np.float32]


@dataclass
class _Slot:
    """One narrow table's slot in a block (N, S, E), and a place for its narrow vectors."""

    number: int
    narrow: F32
    matrix: Matrix = field(init=False)
    wide: Matrix | None = None
    block: int = 0

    def __post_init__(self) -> None:
        self.matrix = Matrix.view(self.narrow)

    def take(self, block: F32) -> tuple[Matrix, Matrix]:
        """Copy the narrow vectors out of ``block``: they, and the slot they stood in."""
        np.copyto(self.narrow, block[:, self.number, : self.narrow.shape[1]])
        return self.matrix, self.slot(block)

    def put(self, block: F32) -> None:
        """Copy the narrow vectors back."""
        block[:, self.number, : self.narrow.shape[1]] = self.narrow

    def slot(self, block: F32) -> Matrix:
        """The slot as a matrix (N, E); made anew only for another block."""
        at = int(block.ctypes.data)
        if self.wide is None or self.block != at:
            self.wide, self.block = Matrix.view(block[:, self.number]), at
        return self.wide


def _slots(step: Step, name: str, samples: int) -> list[_Slot]:
    """A slot per projection, whose numbers are the option ``tables``."""

    def make() -> list[_Slot]:
        pairs = zip(step.options["tables"], step.values[1:], strict=True)
        return [_Slot(number, aligned_empty((samples, weight.rows))) for number, weight in pairs]

    return step.keep(name, make)


def _forward(step: Step) -> F32:
    pooled, *weights = step.values
    for slot, weight in zip(_slots(step, "x", len(pooled)), weights, strict=True):
        x, y = slot.take(pooled)
        fc_forward(x, weight, None, y, "none", is_rounded(weight))
    result: F32 = pooled
    return result


def _backward(step: Step, gradient: F32) -> Gradients:
    pooled, *weights = step.values
    inputs, outputs = (_slots(step, name, len(pooled)) for name in ("x", "dx"))
    for i, weight in enumerate(weights):
        x, dx, dy = inputs[i].matrix, outputs[i], outputs[i].slot(gradient)
        dw = _weight_gradient(step, i, weight)
        fc_backward_data(dy, weight, dx.matrix, None, is_rounded(weight))
        fc_backward_weights(x, dy, dw, None, is_rounded(weight))
        dx.put(gradient)
        yield 1 + i, dw
    yield 0, gradient


def _weight_gradient(step: Step, number: int, weight: Any) -> Matrix:
    return step.keep(f"dw{number}", lambda: Matrix.empty_panels(weight.rows, weight.cols))


RULES = (Rule("projection", _forward, _backward),)
