"""Transposes a square of one vector by one vector in registers: ``target = source.T``.

Contract: row r of the source starts at ``source + r * source_row``, row r of the target at
``target + r * target_row``, both hold as many floats as a vector; they do not overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.ir import I64, POINTER, Emitter, Value
from dlrmjit_kernels.target import Target

_ARGUMENTS: dict[str, ir.Type] = {
    "source": POINTER,
    "target": POINTER,
    "source_row": I64,
    "target_row": I64,
}


@dataclass(frozen=True)
class Transpose:
    """The transposing kernel of a target; there is one."""

    @property
    def symbol(self) -> str:
        """Name of the function."""
        return "transpose"

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        emit = Emitter(module, self.symbol, _ARGUMENTS, target.lanes)
        rows = _exchange(emit, _load(emit))
        pointer = emit["target"]
        for row in rows:
            emit.store(row, pointer)
            pointer = emit.offset(pointer, emit["target_row"])
        emit.finish()


def _load(emit: Emitter) -> list[Value]:
    pointer, rows = emit["source"], []
    for _ in range(emit.lanes):
        rows.append(emit.load(pointer))
        pointer = emit.offset(pointer, emit["source_row"])
    return rows


def _exchange(emit: Emitter, rows: list[Value]) -> list[Value]:
    """Swap off-diagonal quarters of ever smaller squares: half the rows, a quarter, ... one."""
    lanes, step = emit.lanes, emit.lanes // 2
    while step:
        low = [lane if not lane & step else lanes + lane - step for lane in range(lanes)]
        high = [lane + step if not lane & step else lanes + lane for lane in range(lanes)]
        for i in range(lanes):
            if not i & step:
                a, b = rows[i], rows[i + step]
                rows[i], rows[i + step] = emit.shuffle(a, b, low), emit.shuffle(a, b, high)
        step //= 2
    return rows
