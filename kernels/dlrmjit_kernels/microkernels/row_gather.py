"""The micro-kernels that gather rows: pool a run of bags of one table, and multiply by a gradient.

In NumPy, for every bag ``n`` of ``first <= n < last``::

    out[n] = (scales[b, None] * table[indices[b]]).sum(0), b = slice(offsets[n], offsets[n + 1])

divided by the length of the bag if ``mean``. Of a ``split`` table, ``table`` is the address of
the high 16 bits, which are all that is read. Contract: all arguments are int64; ``table``,
``indices``, ``offsets`` (int64), ``scales`` (float32, read if ``scaled``) and ``out`` are
addresses, strides are bytes; ``indices[min(i + ahead, final)]`` is read to prefetch its row, so
``final`` is a valid position; ``out`` overlaps nothing.

The second kernel has the gradient of every lookup's weight, in NumPy::

    out[i] = dY[n] @ table[indices[i]], for each lookup ``i`` of bag ``n``

with the rows of ``dY`` ``bag_stride`` bytes apart, under the same contract.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import F32, I64, Value
from dlrmjit_kernels.codegen.row_emitter import Piece, RowEmitter, row_blocks, row_pieces
from dlrmjit_kernels.runtime.target import Target

ARGUMENTS = (
    "out",
    "out_stride",
    "table",
    "row_stride",
    "indices",
    "offsets",
    "first",
    "last",
    "final",
    "ahead",
    "scales",
)


@dataclass(frozen=True)
class GatherSpec:
    """Width of the rows, bits of the indices, and the kind of pooling."""

    width: int
    index_bits: int
    scaled: bool = False
    mean: bool = False
    split: bool = False

    @property
    def symbol(self) -> str:
        """Name of the generated function."""
        kind = "".join(f"_{flag}" for flag in ("scaled", "mean", "split") if getattr(self, flag))
        return f"row_gather_e{self.width}_i{self.index_bits}{kind}"

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        _emit(self, RowEmitter(module, self.symbol, ARGUMENTS, target), target)


def _emit(spec: GatherSpec, k: RowEmitter, target: Target) -> None:
    _prime(k, spec, target)
    with k.span(k["first"], k["last"]) as (bag, _):
        start = k.integer(64, k["offsets"], bag)
        end = k.integer(64, k["offsets"], k.builder.add(bag, I64(1)))
        out = k.row(k["out"], bag, k["out_stride"])
        for pieces in row_blocks(spec.width, target):
            sums = _sum_rows(k, spec, pieces, start, end)
            if spec.mean:
                sums = _divide(k, sums, start, end)
            for piece, value in zip(pieces, sums, strict=True):
                k.put(value, k.at(out, piece))
    k.finish()


def _prime(k: RowEmitter, spec: GatherSpec, target: Target) -> None:
    """Prefetch the first rows, which no earlier lookup has prefetched."""
    start = k.integer(64, k["offsets"], k["first"])
    end = k.minimum(k.builder.add(start, k["ahead"]), k["final"])
    with k.span(start, end) as (i, _):
        row = k.weights(k.integer(spec.index_bits, k["indices"], i), spec.split, low=False)
        k.prefetch_weights(row, row_pieces(spec.width, target.lanes))


def _sum_rows(
    k: RowEmitter, spec: GatherSpec, pieces: list[Piece], start: Value, end: Value
) -> list[Value]:
    """Return the sums of one block of columns over the lookups ``start`` to ``end``."""
    bits = spec.index_bits
    with k.span(start, end, [k.zeros(piece) for piece in pieces]) as (i, sums):
        later = k.minimum(k.builder.add(i, k["ahead"]), k["final"])
        later_row = k.weights(k.integer(bits, k["indices"], later), spec.split, low=False)
        k.prefetch_weights(later_row, pieces)
        row = k.weights(k.integer(bits, k["indices"], i), spec.split, low=False)
        scale = k.item(F32, k["scales"], i) if spec.scaled else None
        for p, piece in enumerate(pieces):
            value = k.read_weights(row, piece)
            sums[p] = _add(k, sums[p], value, scale, piece.lanes)
    return sums


def _add(k: RowEmitter, total: Value, value: Value, scale: Value, lanes: int) -> Value:
    if scale is None:
        return k.builder.fadd(total, value)
    return k.fma(k.splat(scale, lanes), value, total)


def _divide(k: RowEmitter, sums: list[Value], start: Value, end: Value) -> list[Value]:
    """Divide sums by the length of the bag; an empty bag stays zero."""
    length = k.builder.sub(end, start)
    divisor = k.builder.sitofp(
        k.builder.select(k.builder.icmp_signed(">", length, I64(0)), length, I64(1)), F32
    )
    return [k.builder.fdiv(s, k.splat(divisor, getattr(s.type, "count", 1))) for s in sums]


DOT_ARGUMENTS = (
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
        _emit_dot(self, RowEmitter(module, self.symbol, DOT_ARGUMENTS, target), target)


def _emit_dot(spec: DotSpec, k: RowEmitter, target: Target) -> None:
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
