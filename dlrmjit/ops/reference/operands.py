"""Operands of products as the reference backend rounds them for Split-BF16 weights."""

from __future__ import annotations

from dlrmjit import knobs
from dlrmjit.ops.backend import FloatArray, StoredArray
from dlrmjit.precision import SplitArray, round_to_bf16


def forward_values(stored: StoredArray) -> FloatArray:
    """Return the values that forward and backward use: of Split-BF16, the high bits."""
    return stored.truncated() if isinstance(stored, SplitArray) else stored


def rounded_operand(values: FloatArray, stored: StoredArray) -> FloatArray:
    """Return an operand of products with this weight (K, C), or for its gradient, as rounded."""
    may_round = isinstance(stored, SplitArray) and 1 not in stored.shape
    return round_to_bf16(values) if may_round and knobs.activations() == "bf16" else values
