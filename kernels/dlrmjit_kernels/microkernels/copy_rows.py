"""Copies rows of a fixed number of columns: ``target[:rows] = source[:rows]``.

Contract: row r of the source starts at ``source + r * source_row``, of the target at
``target + r * target_row``; they do not overlap. With so few columns, a loop over them
would cost more than the moves, so each row is unrolled into vector moves.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import F32, I64, POINTER, Emitter, Value
from dlrmjit_kernels.runtime.target import Target

_ARGUMENTS: dict[str, ir.Type] = {
    "source": POINTER,
    "target": POINTER,
    "rows": I64,
    "source_row": I64,
    "target_row": I64,
}


@dataclass(frozen=True)
class CopyRows:
    """The kernel for rows of ``cols`` elements."""

    cols: int

    @property
    def symbol(self) -> str:
        """Name of the function."""
        return f"copy_rows_{self.cols}"

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        emit = Emitter(module, self.symbol, _ARGUMENTS, target.lanes)
        with emit.loop(emit["rows"], [emit["source"], emit["target"]]) as loop:
            source, copy = loop.values
            for first, width in _moves(self.cols, target.lanes):
                _move(emit, emit.offset(source, first), emit.offset(copy, first), width)
            loop.carry(
                [emit.offset(source, emit["source_row"]), emit.offset(copy, emit["target_row"])]
            )
        emit.finish()


def _moves(cols: int, lanes: int) -> list[tuple[int, int]]:
    """Return first column and width of the moves of a row: vectors, then ever shorter ones.

    Masked stores would need fewer moves, but take dozens of micro-operations on some processors.
    """
    moves, first = [], 0
    while first < cols:
        while lanes > cols - first:
            lanes //= 2
        moves.append((first, lanes))
        first += lanes
    return moves


def _move(emit: Emitter, source: Value, target: Value, width: int) -> None:
    kind = ir.VectorType(F32, width)
    emit.builder.store(emit.builder.load(source, align=4, typ=kind), target, align=4)
