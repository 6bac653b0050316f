"""Transposes a square of one vector by one vector in registers: ``target = source.T``.

Contract: row r of the source starts at ``source + r * source_row``, row r of the target at
``target + r * target_row``; they do not overlap. Of an edge only ``rows`` rows of ``cols``
elements are read, and ``cols`` whole vectors, zeros behind ``rows`` elements, are written.

Of words each row holds two rows of BF16 numbers, so that half as many are read, widened, or
written, paired: ``rows`` and ``cols`` count numbers. Nothing is rounded; numbers that are
written as words must be BF16.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import I64, POINTER, Emitter, Value
from dlrmjit_kernels.runtime.target import Target

_ARGUMENTS: dict[str, ir.Type] = {
    "source": POINTER,
    "target": POINTER,
    "source_row": I64,
    "target_row": I64,
}


@dataclass(frozen=True)
class Transpose:
    """The transposing kernel of a target, for whole squares or for an edge of so much source.

    ``from_pairs`` and ``to_pairs`` say that the source and the target are words.
    """

    rows: int | None = None
    cols: int | None = None
    from_pairs: bool = False
    to_pairs: bool = False

    @property
    def symbol(self) -> str:
        """Name of the function."""
        whole = self.rows is None and self.cols is None
        kind = "_words" * self.from_pairs + "_to_words" * self.to_pairs
        return f"transpose{kind}" + ("" if whole else f"_{self.rows}_{self.cols}")

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        emit = Emitter(module, self.symbol, _ARGUMENTS, target.lanes)
        rows = exchange(emit, _load(emit, self))
        pointer = emit["target"]
        rows = rows[: self.cols]
        if self.to_pairs:
            rows = [emit.pack_pairs(*rows[i : i + 2]) for i in range(0, len(rows), 2)]
        for row in rows:
            emit.store(row, pointer)
            pointer = emit.offset(pointer, emit["target_row"])
        emit.finish()


def _load(emit: Emitter, spec: Transpose) -> list[Value]:
    pointer = emit["source"]
    rows: list[Value] = []
    count = emit.lanes if spec.rows is None else spec.rows
    while len(rows) < count:
        row = emit.load(pointer, spec.cols)
        rows += [emit.upcast_pair(row, half) for half in range(2)] if spec.from_pairs else [row]
        pointer = emit.offset(pointer, emit["source_row"])
    return rows + [emit.zero()] * (emit.lanes - len(rows))


def exchange(emit: Emitter, rows: list[Value]) -> list[Value]:
    """The transpose of a square of vectors.

    Swaps off-diagonal quarters of ever smaller squares: half the rows, a quarter, ... one.
    """
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
