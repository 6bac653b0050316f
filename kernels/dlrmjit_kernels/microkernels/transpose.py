"""Transposes a square of one vector by one vector in registers: ``target = source.T``.

Contract: row r of the source starts at ``source + r * source_row``, row r of the target at
``target + r * target_row``; they do not overlap. At an edge, only ``rows`` rows of ``cols``
elements are read, and ``cols`` whole vectors are written, zeros after ``rows`` elements.

With BF16 pairs a row of the source, or of the target, holds two rows of numbers, so half as many
rows are read or written; ``rows`` and ``cols`` count numbers. Nothing is rounded: numbers that
are written as pairs must be BF16 already.
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
    """The transposing kernel, for whole squares or for an edge with ``rows`` and ``cols``.

    ``from_pairs`` and ``to_pairs`` say that the source and the target are BF16 pairs.
    """

    rows: int | None = None
    cols: int | None = None
    from_pairs: bool = False
    to_pairs: bool = False

    @property
    def symbol(self) -> str:
        """Name of the function."""
        whole = self.rows is None and self.cols is None
        kind = "_pairs" * self.from_pairs + "_to_pairs" * self.to_pairs
        return f"transpose{kind}" + ("" if whole else f"_{self.rows}_{self.cols}")

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        emit = Emitter(module, self.symbol, _ARGUMENTS, target.lanes)
        rows = transpose_square(emit, _load(emit, self))
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
        rows += [emit.upcast_pair(row, i) for i in range(2)] if spec.from_pairs else [row]
        pointer = emit.offset(pointer, emit["source_row"])
    return rows + [emit.zero()] * (emit.lanes - len(rows))


def transpose_square(emit: Emitter, rows: list[Value]) -> list[Value]:
    """Return the transpose of a square of vectors.

    Swaps the off-diagonal quarters of ever smaller squares, log2(lanes) times; each swap of two
    rows is two shuffles.
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
