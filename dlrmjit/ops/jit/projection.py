"""The projection of embeddings of width d < E to width E, for the compiled backend.

The pooled vectors (N, d) of such a table are in the first d columns of its slot (N, E) of one
array (N, S, E). The projection overwrites the slot, and the backward pass does the same with the
gradient. So the interaction, and the exchange between ranks, use the same array for any widths.
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
    """One table's slot in an array (N, S, E), and a copy of its vectors (N, d)."""

    table: int
    vectors: F32
    matrix: Matrix = field(init=False)
    _slot: Matrix | None = None
    _address: int = 0  # of the array that _slot is a view of

    def __post_init__(self) -> None:
        self.matrix = Matrix.view(self.vectors)

    def copy_from(self, array: F32) -> tuple[Matrix, Matrix]:
        """Copy the vectors out of ``array``; return the copy, and the slot in the array."""
        np.copyto(self.vectors, array[:, self.table, : self.vectors.shape[1]])
        return self.matrix, self.slot(array)

    def copy_to(self, array: F32) -> None:
        """Copy the vectors back to ``array``."""
        array[:, self.table, : self.vectors.shape[1]] = self.vectors

    def slot(self, array: F32) -> Matrix:
        """Return the slot in ``array`` as a matrix (N, E), the same as long as the array is."""
        address = int(array.ctypes.data)
        if self._slot is None or self._address != address:
            self._slot, self._address = Matrix.view(array[:, self.table]), address
        return self._slot


def _slots(step: Step, name: str, samples: int) -> list[_Slot]:
    """Return a slot per projection; the option ``tables`` says of which tables."""

    def make() -> list[_Slot]:
        pairs = zip(step.options["tables"], step.values[1:], strict=True)
        return [_Slot(table, aligned_empty((samples, weight.rows))) for table, weight in pairs]

    return step.cached(name, make)


def _forward(step: Step) -> F32:
    pooled, *weights = step.values
    for slot, weight in zip(_slots(step, "x", len(pooled)), weights, strict=True):
        x, y = slot.copy_from(pooled)
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
        dx.copy_to(gradient)
        yield 1 + i, dw
    yield 0, gradient


def _weight_gradient(step: Step, number: int, weight: Any) -> Matrix:
    return step.cached(f"dw{number}", lambda: Matrix.empty_panels(weight.rows, weight.cols))


RULES = (Rule("projection", _forward, _backward),)
