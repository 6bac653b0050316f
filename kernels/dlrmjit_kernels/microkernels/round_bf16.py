"""Rounds float32 numbers to BF16 pairs, in the order in which the tile multiplies them.

In NumPy, with ``low`` and ``high`` float32 numbers of row i of the source::

    numbers = concatenate([low, high]) if not interleave else stack([low, high], axis=1)
    target[i] = numbers.ravel().astype(bfloat16), as pairs of 32 bits

Contract. Strides count elements of four bytes. ``low`` starts at ``source + i * source_row`` and
has ``low_count`` numbers, ``high`` starts ``high`` elements later and has ``high_count``, each at
most one vector; numbers beyond those are not read and count as zero. The first ``pairs`` pairs of
row i are written at ``target + i * target_row``. Rounding is to nearest even, denormals become
zero. Only for targets with BF16 instructions.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import I64, POINTER, Emitter
from dlrmjit_kernels.runtime.target import Target

_ARGUMENTS: dict[str, ir.Type] = {"source": POINTER, "target": POINTER} | dict.fromkeys(
    ("source_row", "target_row", "rows", "high", "low_count", "high_count", "pairs"), I64
)


@dataclass(frozen=True)
class RoundBf16:
    """The rounding kernel: pairs of neighbours in a row or, interleaved, of two rows."""

    interleave: bool

    @property
    def symbol(self) -> str:
        """Name of the function."""
        return f"round_bf16_{int(self.interleave)}"

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        emit = Emitter(module, self.symbol, _ARGUMENTS, target.lanes)
        counts = [emit[name] for name in ("low_count", "high_count", "pairs")]
        low_mask, high_mask, mask = (emit.first(count) for count in counts)
        with emit.loop(emit["rows"], [emit["source"], emit["target"]]) as loop:
            source, pairs = loop.values
            low = emit.load_masked(source, low_mask)
            high = emit.load_masked(emit.offset(source, emit["high"]), high_mask)
            emit.store_masked(emit.round_to_pairs(low, high, self.interleave), pairs, mask)
            rows = (emit["source_row"], emit["target_row"])
            loop.carry([emit.offset(p, row) for p, row in zip(loop.values, rows, strict=True)])
        emit.finish()
