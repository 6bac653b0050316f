"""Operations on rows of pairs (i, j) of one item i, whose partners j are adjacent rows.

In NumPy, for a row a of the item, rows b of its partners and rows x of the pairs::

    JOIN      x = maximum(a + b, 0)
    SPREAD    x = where(x > 0, a, 0)
    SUM       a += x.sum(0)
    COLLECT   a += x.sum(0); b += x

Contract. All rows have ``vectors`` whole vectors. Row p of b is at ``b + p * b_row`` and that of x
at ``x + p * x_row``, strides in elements. ``b`` is not touched by SPREAD and SUM.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import I64, POINTER, Emitter, Value
from dlrmjit_kernels.runtime.target import Target

MOST_VECTORS = 8
"""Vectors of a row that stay in registers."""
_ARGUMENTS: dict[str, ir.Type] = dict.fromkeys(("a", "b", "x"), POINTER) | dict.fromkeys(
    ("b_row", "x_row", "rows"), I64
)


class PairOp(Enum):
    """An operation on the pairs of an item."""

    JOIN = "join"
    SPREAD = "spread"
    SUM = "sum"
    COLLECT = "collect"


@dataclass(frozen=True)
class PairRows:
    """The kernel of one operation on rows of ``vectors`` vectors."""

    op: PairOp
    vectors: int

    @property
    def symbol(self) -> str:
        """Name of the function."""
        return f"pair_rows_{self.op.value}_{self.vectors}"

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        _PairRowsEmitter(self, module, target).emit()


class _PairRowsEmitter(Emitter):
    def __init__(self, spec: PairRows, module: ir.Module, target: Target) -> None:
        super().__init__(module, spec.symbol, _ARGUMENTS, target.lanes)
        self.spec = spec

    def emit(self) -> None:
        item, op = self._row(self["a"]), self.spec.op
        sums = item if op in (PairOp.SUM, PairOp.COLLECT) else []
        with self.loop(self["rows"], [self["b"], self["x"], *sums]) as loop:
            b, x, *sums = loop.values
            sums = self._pair(item, sums, b, x)
            loop.carry([self.offset(b, self["b_row"]), self.offset(x, self["x_row"]), *sums])
        self._store(self["a"], loop.values[2:])
        self.finish()

    def _pair(self, item: list[Value], sums: list[Value], b: Value, x: Value) -> list[Value]:
        """Compute one row; return the sums after it."""
        add = self.builder.fadd
        if self.spec.op is PairOp.JOIN:
            joined = (add(*pair) for pair in zip(item, self._row(b), strict=True))
            self._store(x, [self.relu(value) for value in joined])
            return []
        row = self._row(x)
        if self.spec.op is PairOp.SPREAD:
            pairs = zip(item, row, strict=True)
            self._store(x, [self.where_positive(value, mask) for value, mask in pairs])
            return []
        if self.spec.op is PairOp.COLLECT:
            self._store(b, [add(*pair) for pair in zip(self._row(b), row, strict=True)])
        return [add(*pair) for pair in zip(sums, row, strict=True)]

    def _row(self, pointer: Value) -> list[Value]:
        vectors = range(self.spec.vectors)
        return [self.load(self.offset(pointer, v * self.lanes)) for v in vectors]

    def _store(self, pointer: Value, row: list[Value]) -> None:
        for v, value in enumerate(row):
            self.store(value, self.offset(pointer, v * self.lanes))
