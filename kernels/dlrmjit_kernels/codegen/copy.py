"""Copies the rows of a panel: ``target[:rows] = source[:rows]``, a fixed number of columns wide.

Contract: row r of the source starts at ``source + r * source_row``, of the target at
``target + r * target_row``; they do not overlap. A loop over so few columns would be mostly
loop, so each row is a handful of vector moves.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.ir import I64, POINTER, Emitter
from dlrmjit_kernels.target import Target

_ARGUMENTS: dict[str, ir.Type] = {
    "source": POINTER,
    "target": POINTER,
    "rows": I64,
    "source_row": I64,
    "target_row": I64,
}


@dataclass(frozen=True)
class CopyRows:
    """The kernel for rows of ``cols`` elements, a whole number of vectors."""

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
            for first in range(0, self.cols, target.lanes):
                emit.store(emit.load(emit.offset(source, first)), emit.offset(copy, first))
            loop.carry(
                [emit.offset(source, emit["source_row"]), emit.offset(copy, emit["target_row"])]
            )
        emit.finish()
