"""Joins the high and the low 16 bits of float32 numbers, or splits the numbers.

In NumPy, for one row of ``high`` and ``low``, which are pairs of 16 bits, and two rows of
``numbers``, all uint32::

    numbers[0] = high << 16 | low & 0xFFFF
    numbers[1] = high & 0xFFFF0000 | low >> 16

Contract. ``high`` and ``low`` have ``rows`` contiguous rows of ``width`` pairs, ``numbers`` twice
as many rows; none overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import I32, I64, POINTER, Emitter, Value
from dlrmjit_kernels.runtime.target import Target

_ARGUMENTS: dict[str, ir.Type] = {
    "high": POINTER,
    "low": POINTER,
    "numbers": POINTER,
    "rows": I64,
}


@dataclass(frozen=True)
class SplitBf16:
    """The kernel that joins or splits rows of ``width`` pairs: whole vectors, or below one."""

    width: int
    split: bool

    @property
    def symbol(self) -> str:
        """Name of the function."""
        return f"{'split' if self.split else 'join'}_bf16_{self.width}"

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        emit = Emitter(module, self.symbol, _ARGUMENTS, min(target.lanes, self.width))
        pointers = [emit[name] for name in ("high", "low", "numbers")]
        with emit.loop(emit["rows"], pointers) as loop:
            for start in range(0, self.width, emit.lanes):
                high, low, first = (emit.offset(p, start) for p in loop.values)
                second = emit.offset(first, self.width)
                if self.split:
                    _exchange(emit, (second, first), (low, high))
                else:
                    _exchange(emit, (high, low), (first, second))
            steps = (self.width, self.width, 2 * self.width)
            loop.carry([emit.offset(p, n) for p, n in zip(loop.values, steps, strict=True)])
        emit.finish()


def _exchange(emit: Emitter, source: tuple[Value, Value], into: tuple[Value, Value]) -> None:
    """Store ``x << 16 | y & 0xFFFF`` and ``x & 0xFFFF0000 | y >> 16`` of vectors x and y.

    Joining and splitting are the same exchange of 16 bits, with x and y in another order.
    """
    build, kind = emit.builder, ir.VectorType(I32, emit.lanes)
    x, y = (build.bitcast(emit.load(pointer), kind) for pointer in source)
    shift, low, high = (ir.Constant(kind, [n] * emit.lanes) for n in (16, 0xFFFF, 0xFFFF0000))
    first = build.or_(build.shl(x, shift), build.and_(y, low))
    second = build.or_(build.and_(x, high), build.lshr(y, shift))
    for value, pointer in zip((first, second), into, strict=True):
        emit.store(build.bitcast(value, emit.vector), pointer)
