"""What the row micro-kernels are written with: loops, vector pieces of a row, arithmetic on them.

A row of any width is a list of pieces: full vectors, then halves down to one element, so no
kernel reads or writes past a row's end and neighbouring rows may belong to other threads.

The weights of a table are stored as float32, or as Split-BF16 in two arrays
(:mod:`dlrmjit_kernels.precision`); what computes with them sees float32 either way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import F32, I64, POINTER, Emitter, Value
from dlrmjit_kernels.runtime.target import Target

I16, I32 = ir.IntType(16), ir.IntType(32)
CACHE_LINE = 64


@dataclass(frozen=True)
class Piece:
    """``lanes`` adjacent elements of a row, from element ``start``."""

    start: int
    lanes: int

    @property
    def kind(self) -> ir.Type:
        """LLVM type of the piece in a register."""
        return self.of(F32)

    def of(self, element: ir.Type) -> ir.Type:
        """LLVM type of as many elements of another type."""
        return element if self.lanes == 1 else ir.VectorType(element, self.lanes)


@dataclass(frozen=True)
class Weights:
    """Addresses of a row of a table: of all of it, or of its high and its low halves.

    ``size`` is that of an element there, in bytes; reading alone needs no ``low``.
    """

    first: Value
    size: int = 4
    low: Value = None


def row_pieces(width: int, lanes: int) -> list[Piece]:
    """Cut a row into vectors of ``lanes`` elements and a tail of smaller powers of two."""
    pieces, start = [], 0
    while start < width:
        while lanes > width - start:
            lanes //= 2
        pieces.append(Piece(start, lanes))
        start += lanes
    return pieces


def row_blocks(width: int, target: Target) -> list[list[Piece]]:
    """Pieces in groups that fit into registers as accumulators, with registers to spare."""
    pieces = row_pieces(width, target.lanes)
    size = target.registers // 2
    return [pieces[i : i + size] for i in range(0, len(pieces), size)]


class RowEmitter(Emitter):
    """An emitter of one row kernel, whose arguments are all int64, addresses included."""

    def __init__(self, module: ir.Module, name: str, arguments: Sequence[str], target: Target):
        super().__init__(module, name, dict.fromkeys(arguments, I64), target.lanes)

    @contextmanager
    def span(
        self, start: Value, end: Value, carried: Sequence[Value] = ()
    ) -> Iterator[tuple[Value, list[Value]]]:
        """Emit what is inside for ``start <= i < end``: yields ``i`` and the carried values.

        What is inside replaces the list's items by their next values; afterwards the list
        holds the last ones.
        """
        with self.loop(self.builder.sub(end, start), carried) as loop:
            values = list(loop.values)
            yield self.builder.add(start, loop.index), values
            loop.carry(values)
        values[:] = loop.values

    @contextmanager
    def chain(
        self, first: Value, links: Value, carried: Sequence[Value] = ()
    ) -> Iterator[tuple[Value, list[Value]]]:
        """Emit what is inside for ``i = first``, then ``links[i]`` (int32) until that is 0.

        Yields ``i`` and the carried values, as :meth:`span` does.
        """
        builder = self.builder
        entry, turn = builder.block, builder.append_basic_block("link")
        builder.branch(turn)
        builder.position_at_end(turn)
        phis = [builder.phi(value.type) for value in (first, *carried)]
        values = list(phis[1:])
        yield phis[0], values
        following = self.integer(32, links, phis[0])
        for phi, start, value in zip(phis, (first, *carried), (following, *values), strict=True):
            phi.add_incoming(start, entry)
            phi.add_incoming(value, builder.block)
        behind = builder.append_basic_block("unlinked")
        builder.cbranch(builder.icmp_signed("!=", following, I64(0)), turn, behind)
        builder.position_at_end(behind)

    def fetch(self, kind: ir.Type, address: Value, align: int = 4) -> Value:
        """Load a value from an int64 address."""
        return self.builder.load(self.builder.inttoptr(address, POINTER), typ=kind, align=align)

    def put(self, value: Value, address: Value) -> None:
        """Store a value at an int64 address of float32 alignment."""
        self.builder.store(value, self.builder.inttoptr(address, POINTER), align=4)

    def item(self, kind: ir.Type, base: Value, index: Value) -> Value:
        """``base[index]`` of an array of integers or floats."""
        size = kind.width // 8 if isinstance(kind, ir.IntType) else 4
        where = self.builder.add(base, self.builder.mul(index, I64(size)))
        return self.fetch(kind, where, align=size)

    def integer(self, bits: int, base: Value, index: Value) -> Value:
        """``base[index]`` of an array of unsigned integers, as int64."""
        value = self.item(ir.IntType(bits), base, index)
        return value if bits == 64 else self.builder.zext(value, I64)

    def row(self, base: Value, number: Value, stride: Value) -> Value:
        """Address of row ``number`` of rows ``stride`` bytes apart."""
        return self.builder.add(base, self.builder.mul(number, stride))

    def at(self, row: Value, piece: Piece) -> Value:
        """Address of a piece of the row at address ``row``."""
        return self.builder.add(row, I64(4 * piece.start))

    def minimum(self, left: Value, right: Value) -> Value:
        """The smaller of two int64."""
        return self.builder.select(self.builder.icmp_signed("<", left, right), left, right)

    def call(self, name: str, kind: ir.Type, *arguments: Value) -> Value:
        """Call an LLVM intrinsic by its full name."""
        signature = ir.FunctionType(kind, [argument.type for argument in arguments])
        return self.builder.call(self._declared(name, signature), arguments)

    def prefetch_row(
        self, row: Value, pieces: Sequence[Piece], size: int = 4, cache: int = 2
    ) -> None:
        """Start loading the cache lines that hold the pieces of a row of ``size``-byte elements.

        They go to the second cache, and not for writing, which would take them to the first:
        that one can wait for fewer lines at a time, and waiting is what random rows cost. The
        first is for rows that lie in the others already.
        """
        first, end = pieces[0].start * size, (pieces[-1].start + pieces[-1].lanes) * size
        for offset in range(first, end, CACHE_LINE):
            where = self.builder.inttoptr(self.builder.add(row, I64(offset)), POINTER)
            self.prefetch(where, cache=cache)

    def weights(self, number: Value, split: bool, low: bool = True) -> Weights:
        """Row ``number`` of the kernel's arguments ``table``, ``row_stride`` and ``low``."""
        if not split:
            return Weights(self.row(self["table"], number, self["row_stride"]))
        high = self.row(self["table"], number, self["row_stride"])
        return Weights(high, 2, self.row(self["low"], number, self["row_stride"]) if low else None)

    def read_weights(self, row: Weights, piece: Piece) -> Value:
        """What forward and backward see: of halves, the high, widened by a shift."""
        if row.size == 4:
            return self.fetch(piece.kind, self.at(row.first, piece))
        return self.builder.bitcast(self._half(row.first, piece, 16), piece.kind)

    def fetch_weights(self, row: Weights, piece: Piece) -> Value:
        """What optimisers see: of halves, both."""
        if row.size == 4:
            return self.read_weights(row, piece)
        high, low = self._half(row.first, piece, 16), self._half(row.low, piece, 0)
        return self.builder.bitcast(self.builder.or_(high, low), piece.kind)

    def put_weights(self, value: Value, row: Weights, piece: Piece) -> None:
        """Store a piece of a row, split where the row is."""
        if row.size == 4:
            self.put(value, self.at(row.first, piece))
            return
        bits = self.builder.bitcast(value, piece.of(I32))
        shifted = self.builder.lshr(bits, self._integers(piece, 16))
        for half, address in ((shifted, row.first), (bits, row.low)):
            words = self.builder.trunc(half, piece.of(I16))
            self.builder.store(words, self._half_pointer(address, piece), align=2)

    def prefetch_weights(self, row: Weights, pieces: Sequence[Piece]) -> None:
        """Start loading the pieces of a row, as far as its addresses are given."""
        self.prefetch_row(row.first, pieces, row.size)
        if row.low is not None:
            self.prefetch_row(row.low, pieces, row.size)

    def _half(self, address: Value, piece: Piece, shift: int) -> Value:
        """A piece of halves as 32-bit integers, shifted to the left."""
        words = self.builder.load(self._half_pointer(address, piece), typ=piece.of(I16), align=2)
        bits = self.builder.zext(words, piece.of(I32))
        return self.builder.shl(bits, self._integers(piece, shift)) if shift else bits

    def _half_pointer(self, address: Value, piece: Piece) -> Value:
        return self.builder.inttoptr(self.builder.add(address, I64(2 * piece.start)), POINTER)

    def _integers(self, piece: Piece, value: int) -> Value:
        return ir.Constant(piece.of(I32), value if piece.lanes == 1 else [value] * piece.lanes)

    def zeros(self, piece: Piece) -> Value:
        """A piece of zeros."""
        return ir.Constant(piece.kind, 0.0 if piece.lanes == 1 else [0.0] * piece.lanes)

    def splat(self, scalar: Value, lanes: int) -> Value:
        """A scalar in every lane."""
        if lanes == 1:
            return scalar
        vector = ir.VectorType(F32, lanes)
        single = self.builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, I32(0))
        mask = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
        return self.builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), mask)

    def fma(self, x: Value, y: Value, z: Value) -> Value:
        """``x * y + z``, rounded once."""
        lanes = getattr(x.type, "count", 1)
        suffix = "f32" if lanes == 1 else f"v{lanes}f32"
        return self.call(f"llvm.fma.{suffix}", x.type, x, y, z)

    def sqrt(self, x: Value) -> Value:
        """Square root of every lane."""
        lanes = getattr(x.type, "count", 1)
        suffix = "f32" if lanes == 1 else f"v{lanes}f32"
        return self.call(f"llvm.sqrt.{suffix}", x.type, x)

    def lane_sum(self, x: Value) -> Value:
        """Sum of the lanes, added in halves: few steps, and a fixed order."""
        lanes = getattr(x.type, "count", 1)
        if lanes == 1:
            return x
        while lanes > 1:
            lanes //= 2
            low = self.shuffle(x, x, range(lanes))
            x = self.builder.fadd(low, self.shuffle(x, x, range(lanes, 2 * lanes)))
        return self.builder.extract_element(x, I32(0))
