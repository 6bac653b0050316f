"""Products of all pairs of vectors: of rows while they are gathered, and of vectors in memory.

The row gather of models that need no vector but their sums, linear models and factorisation, is in
NumPy, for every sample ``n`` of ``first <= n < last`` with ``v[t]`` the pooled vector of table
``t``, and ``before[t] = v[:t].sum(0)``::

    v[t] = table[t][indices[offsets[t, n] : offsets[t, n + 1]]].sum(0)
    sums[n] = v.sum(0)
    pairs[n] = (before * v).sum()  # if ``pairs``: of all pairs of vectors, their scalar products

No vector is written: the second accumulator takes the products while a row is in registers. Adding
products of pairs does not cancel, as half the difference of squares does. ``longest[0]`` becomes
the largest number of lookups in a bag. Contract: all arguments are int64; ``tables`` (S,) of
addresses, ``indices``, ``offsets`` (int64, ``samples`` + 1 of each table, ``offsets_stride`` bytes
from table to table), ``sums`` and ``pairs`` (float32) are addresses; a row is read as in
``row_gather``, and there is at least one index. Rows ``ahead`` lookups later in their table are
prefetched.

The second kernel is for models that need the vectors too. In NumPy, for every sample ``n`` of
``first <= n < last`` with vectors ``v = x[n]`` (F, width), and ``before`` as above::

    sums[n] = v.sum(0)
    y[n] = (before * v).sum(0)  # summed over the elements too, unless ``elementwise``

and backward, where ``y`` has the gradients of the products::

    dx[n] = y[n] * (sums[n] - v)

Contract: ``x``, ``dx``, ``sums`` and ``y`` are addresses of float32, and what is written overlaps
nothing; strides are bytes: ``x_stride`` from sample to sample, ``x_vector`` from vector to vector,
those of ``dx`` alike. ``sums`` has rows of ``width`` elements, ``y`` of ``width`` or of one.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import F32, I64, POINTER, Value
from dlrmjit_kernels.codegen.row_emitter import Piece, RowEmitter, Weights, row_pieces
from dlrmjit_kernels.runtime.target import Target

ARGUMENTS = (
    "sums",
    "sums_stride",
    "pairs",
    "tables",
    "count",
    "row_stride",
    "indices",
    "offsets",
    "offsets_stride",
    "samples",
    "first",
    "last",
    "ahead",
    "longest",
)


@dataclass(frozen=True)
class PairGatherSpec:
    """Width of the rows, bits of the indices, and whether pairs are wanted."""

    width: int
    index_bits: int
    pairs: bool = False
    split: bool = False

    @property
    def symbol(self) -> str:
        """Name of the generated function."""
        kind = "".join(f"_{flag}" for flag in ("pairs", "split") if getattr(self, flag))
        return f"pair_gather_e{self.width}_i{self.index_bits}{kind}"

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        _emit(self, RowEmitter(module, self.symbol, ARGUMENTS, target), target)


def _emit(spec: PairGatherSpec, k: RowEmitter, target: Target) -> None:
    pieces = row_pieces(spec.width, target.lanes)
    size = target.registers // 4  # two accumulators and a bag's vector of each piece
    blocks = [pieces[i : i + size] for i in range(0, len(pieces), size)]
    with k.span(k["first"], k["last"], [I64(0)]) as (n, longest):
        total = F32(0.0)
        for number, block in enumerate(blocks):
            ahead = pieces if number == 0 else []
            sums, pairs, length = _sum_tables(k, spec, block, n, ahead, longest[0])
            longest[0] = length
            row = k.row(k["sums"], n, k["sums_stride"])
            for piece, value in zip(block, sums, strict=True):
                k.put(value, k.at(row, piece))
            for value in pairs:
                total = k.builder.fadd(total, k.lane_sum(value))
        if spec.pairs:
            k.put(total, k.row(k["pairs"], n, I64(4)))
    k.builder.store(longest[0], k.builder.inttoptr(k["longest"], POINTER), align=8)
    k.finish()


def _sum_tables(
    k: RowEmitter,
    spec: PairGatherSpec,
    block: list[Piece],
    n: Value,
    ahead: list[Piece],
    longest: Value,
) -> tuple[list[Value], list[Value], Value]:
    """Return the sums and the pairs of one block of columns, and the longest bag so far.

    Rows are prefetched by their pieces ``ahead``.
    """
    count = len(block)
    zeros = [k.zeros(piece) for piece in block]
    carried = [*zeros, *(zeros if spec.pairs else []), longest]
    with k.span(I64(0), k["count"], carried) as (t, values):
        offsets = k.row(k["offsets"], t, k["offsets_stride"])
        start = k.integer(64, offsets, n)
        end = k.integer(64, offsets, k.builder.add(n, I64(1)))
        table = k.item(I64, k["tables"], t)
        if ahead:
            _prefetch(k, spec, ahead, table, start, offsets)
        vector = _pool(k, spec, block, table, start, end)
        for i, value in enumerate(vector):
            if spec.pairs:
                values[count + i] = k.fma(values[i], value, values[count + i])
            values[i] = k.builder.fadd(values[i], value)
        length = k.builder.sub(end, start)
        is_longer = k.builder.icmp_signed(">", length, values[-1])
        values[-1] = k.builder.select(is_longer, length, values[-1])
    return values[:count], values[count:-1], values[-1]


def _prefetch(
    k: RowEmitter,
    spec: PairGatherSpec,
    pieces: list[Piece],
    table: Value,
    start: Value,
    offsets: Value,
) -> None:
    """Prefetch the row of a later lookup of the same table, or of any table after the last one."""
    final = k.builder.sub(k.integer(64, offsets, k["samples"]), I64(1))
    later = k.minimum(k.builder.add(start, k["ahead"]), final)
    later = k.builder.select(k.builder.icmp_signed("<", later, I64(0)), I64(0), later)
    row = _row(k, spec, table, k.integer(spec.index_bits, k["indices"], later))
    k.prefetch_weights(row, pieces)


def _pool(
    k: RowEmitter, spec: PairGatherSpec, block: list[Piece], table: Value, start: Value, end: Value
) -> list[Value]:
    with k.span(start, end, [k.zeros(piece) for piece in block]) as (i, sums):
        row = _row(k, spec, table, k.integer(spec.index_bits, k["indices"], i))
        for p, piece in enumerate(block):
            sums[p] = k.builder.fadd(sums[p], k.read_weights(row, piece))
    return sums


def _row(k: RowEmitter, spec: PairGatherSpec, table: Value, number: Value) -> Weights:
    return Weights(k.row(table, number, k["row_stride"]), 2 if spec.split else 4)


VECTOR_ARGUMENTS = (
    "x",
    "x_stride",
    "x_vector",
    "dx",
    "dx_stride",
    "dx_vector",
    "count",
    "sums",
    "y",
    "first",
    "last",
)


@dataclass(frozen=True)
class PairVectorsSpec:
    """Width of the vectors, whether a product is a vector, and the direction."""

    width: int
    elementwise: bool
    backward: bool

    @property
    def symbol(self) -> str:
        """Name of the generated function."""
        kind = "".join(f"_{f}" for f in ("elementwise", "backward") if getattr(self, f))
        return f"pair_vectors_e{self.width}{kind}"

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        k = RowEmitter(module, self.symbol, VECTOR_ARGUMENTS, target)
        with k.span(k["first"], k["last"]) as (n, _):
            (_emit_backward if self.backward else _emit_forward)(self, k, target, n)
        k.finish()


def _blocks(spec: PairVectorsSpec, target: Target) -> list[list[Piece]]:
    """Cut a vector into pieces of which two accumulators each fit half of the registers."""
    pieces = row_pieces(spec.width, target.lanes)
    size = target.registers // 4
    return [pieces[i : i + size] for i in range(0, len(pieces), size)]


def _emit_forward(spec: PairVectorsSpec, k: RowEmitter, target: Target, n: Value) -> None:
    x, row, y = k.row(k["x"], n, k["x_stride"]), _sums(spec, k, n), _products(spec, k, n)
    total = F32(0.0)
    for pieces in _blocks(spec, target):
        zeros = [k.zeros(piece) for piece in pieces]
        with k.span(I64(0), k["count"], [*zeros, *zeros]) as (f, values):
            vector = k.row(x, f, k["x_vector"])
            for i, piece in enumerate(pieces):
                value, pair = k.fetch(piece.kind, k.at(vector, piece)), len(pieces) + i
                values[pair] = k.fma(values[i], value, values[pair])
                values[i] = k.builder.fadd(values[i], value)
        for i, piece in enumerate(pieces):
            k.put(values[i], k.at(row, piece))
            if spec.elementwise:
                k.put(values[len(pieces) + i], k.at(y, piece))
            else:
                total = k.builder.fadd(total, k.lane_sum(values[len(pieces) + i]))
    if not spec.elementwise:
        k.put(total, y)


def _emit_backward(spec: PairVectorsSpec, k: RowEmitter, target: Target, n: Value) -> None:
    x, dx = k.row(k["x"], n, k["x_stride"]), k.row(k["dx"], n, k["dx_stride"])
    row, y = _sums(spec, k, n), _products(spec, k, n)
    for pieces in _blocks(spec, target):
        held = [k.fetch(piece.kind, k.at(row, piece)) for piece in pieces]
        if spec.elementwise:
            gradients = [k.fetch(piece.kind, k.at(y, piece)) for piece in pieces]
        else:
            scalar = k.fetch(F32, y)
            gradients = [k.splat(scalar, piece.lanes) for piece in pieces]
        with k.span(I64(0), k["count"]) as (f, _):
            vector, result = k.row(x, f, k["x_vector"]), k.row(dx, f, k["dx_vector"])
            for piece, total, gradient in zip(pieces, held, gradients, strict=True):
                others = k.builder.fsub(total, k.fetch(piece.kind, k.at(vector, piece)))
                k.put(k.builder.fmul(gradient, others), k.at(result, piece))


def _sums(spec: PairVectorsSpec, k: RowEmitter, n: Value) -> Value:
    return k.row(k["sums"], n, I64(4 * spec.width))


def _products(spec: PairVectorsSpec, k: RowEmitter, n: Value) -> Value:
    return k.row(k["y"], n, I64(4 * spec.width if spec.elementwise else 4))
