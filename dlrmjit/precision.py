"""Precisions of parameters, and Split-BF16 arrays, as the kernels define them."""

from __future__ import annotations

from dlrmjit_kernels.precision import (
    U16,
    Precision,
    SplitArray,
    check_precision,
    round_to_bf16,
    to_precision,
)

__all__ = ["U16", "Precision", "SplitArray", "check_precision", "round_to_bf16", "to_precision"]
