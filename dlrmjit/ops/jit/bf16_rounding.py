"""Decides for all operations of the compiled backend whether products run in BF16."""

from __future__ import annotations

from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.runtime.target import current_target

from dlrmjit import knobs


def is_rounded(weight: Matrix | SplitWeights) -> bool:
    """Return whether the operands of products with this weight, or for its gradient, are BF16.

    A weight of a single row or column stays in float32: rounding would cost more than it saves.
    """
    if not isinstance(weight, SplitWeights) or 1 in (weight.rows, weight.cols):
        return False
    activations = knobs.activations()
    return current_target().bf16 if activations is None else activations == "bf16"
