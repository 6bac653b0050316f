"""The row dot-product micro-kernel: the gradient of every lookup's weight, of one table.

In NumPy, for every bag ``n`` of ``first <= n < last`` and each of its lookups ``i``::

    out[i] = dY[n] @ table[indices[i]]

Of a ``split`` table, ``table`` is the address of the high 16 bits, which are all that is read.
Contract: all arguments are int64; ``dY`` (rows ``bag_stride`` bytes apart), ``table``, ``indices``,
``offsets`` (int64) and ``out`` (float32) are addresses, strides are bytes;
``indices[min(i + ahead, final)]`` is read to prefetch its row, so ``final`` is a valid position;
``out`` overlaps nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import F32, I64, Value
from dlrmjit_kernels.codegen.row_emitter import Piece, RowEmitter, row_pieces
from dlrmjit_kernels.runtime.target import Target

ARGUMENTS = (
    "dY",
    "bag_stride",
    "table",
    "row_stride",
    "indices",
    "offsets",
    "first",
    "last",
    "final",
    "ahead",
    "out",
)


@dataclass(frozen=True)
class DotSpec:
    """Width of the rows, bits of the indices, and whether the table is split."""

    width: int
    index_bits: int
    split: bool = False

    @property
    def symbol(self) -> str:
        """Name of the generated function."""
        return f"row_dot_e{self.width}_i{self.index_bits}{'_split' * self.split}"

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        _emit(self, RowEmitter(module, self.symbol, ARGUMENTS, target), target)


def _emit(spec: DotSpec, k: RowEmitter, target: Target) -> None:
    pieces, bits = row_pieces(spec.width, target.lanes), spec.index_bits
    with k.span(k["first"], k["last"]) as (bag, _):
        start = k.integer(64, k["offsets"], bag)
        end = k.integer(64, k["offsets"], k.builder.add(bag, I64(1)))
        dy = k.row(k["dY"], bag, k["bag_stride"])
        with k.span(start, end) as (i, _):
            later = k.minimum(k.builder.add(i, k["ahead"]), k["final"])
            later_row = k.weights(k.integer(bits, k["indices"], later), spec.split, low=False)
            k.prefetch_weights(later_row, pieces)
            row = k.weights(k.integer(bits, k["indices"], i), spec.split, low=False)
            values = [(piece, k.read_weights(row, piece)) for piece in pieces]
            k.put(_dot(k, dy, values), k.row(k["out"], i, I64(4)))
    k.finish()


def _dot(k: RowEmitter, dy: Value, values: list[tuple[Piece, Value]]) -> Value:
    """Return the sum of products, of pieces of equal length in one accumulator each."""
    sums: dict[int, Value] = {}
    for piece, value in values:
        g = k.fetch(piece.kind, k.at(dy, piece))
        sums[piece.lanes] = k.fma(g, value, sums.get(piece.lanes, k.zeros(piece)))
    total = ir.Constant(F32, 0.0)
    for value in sums.values():
        total = k.builder.fadd(total, k.lane_sum(value))
    return total
