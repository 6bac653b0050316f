"""What all operations of the compiled backend ask of a weight."""

from __future__ import annotations

from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.runtime.target import current_target

from dlrmjit import knobs


def is_rounded(weight: Matrix | SplitWeights) -> bool:
    """Whether what meets this weight, or makes its gradient, is rounded to BF16 before.

    With a single row or column that would cost more than it gains.
    """
    if not isinstance(weight, SplitWeights) or 1 in (weight.rows, weight.cols):
        return False
    asked = knobs.activations()
    return current_target().bf16 if asked is None else asked == "bf16"
