"""An emitter of row micro-kernels: loops, vector pieces of a row, and arithmetic on them.

A row of any width is a list of pieces: full vectors, then ever shorter ones down to one element.
So no kernel reads or writes beyond a row, and other threads may update neighbouring rows.

The weights of a table are stored as float32, or as Split-BF16 in two arrays
(:mod:`dlrmjit_kernels.precision`); kernels compute with float32 in either case.
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
        """Return the LLVM type of as many elements of another type."""
        return element if self.lanes == 1 else ir.VectorType(element, self.lanes)


@dataclass(frozen=True)
class Weights:
    """Addresses of a row of a table: of its float32 numbers, or of their high and low 16 bits.

    ``size`` is the bytes of an element at ``base``; kernels that only read need no ``low``.
    """

    base: Value
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
    """Group the pieces of a row, so that the accumulators of a group fit half of the registers."""
    pieces = row_pieces(width, target.lanes)
    size = target.registers // 2
    return [pieces[i : i + size] for i in range(0, len(pieces), size)]


class RowEmitter(Emitter):
    """Emits one row kernel, whose arguments are all int64, addresses included."""

    def __init__(self, module: ir.Module, name: str, arguments: Sequence[str], target: Target):
        super().__init__(module, name, dict.fromkeys(arguments, I64), target.lanes)

    @contextmanager
    def span(
        self, start: Value, end: Value, carried: Sequence[Value] = ()
    ) -> Iterator[tuple[Value, list[Value]]]:
        """Emit a loop over ``start <= i < end``; yield ``i`` and a list of the carried values.

        The body replaces items of the list by the values of the next iteration; after the loop
        the list has those of the last one.
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
        """Emit a loop over ``i = first``, then ``i = links[i]`` (int32) until that is 0.

        Yields ``i`` and the carried values, as :meth:`span` does.
        """
        builder = self.builder
        entry, body = builder.block, builder.append_basic_block("link")
        builder.branch(body)
        builder.position_at_end(body)
        phis = [builder.phi(value.type) for value in (first, *carried)]
        values = list(phis[1:])
        yield phis[0], values
        following = self.integer(32, links, phis[0])
        for phi, start, value in zip(phis, (first, *carried), (following, *values), strict=True):
            phi.add_incoming(start, entry)
            phi.add_incoming(value, builder.block)
        after = builder.append_basic_block("unlinked")
        builder.cbranch(builder.icmp_signed("!=", following, I64(0)), body, after)
        builder.position_at_end(after)

    def fetch(self, kind: ir.Type, address: Value, align: int = 4) -> Value:
        """Load a value from an int64 address."""
        return self.builder.load(self.builder.inttoptr(address, POINTER), typ=kind, align=align)

    def put(self, value: Value, address: Value) -> None:
        """Store a value at an int64 address that is aligned to 4 bytes."""
        self.builder.store(value, self.builder.inttoptr(address, POINTER), align=4)

    def item(self, kind: ir.Type, base: Value, index: Value) -> Value:
        """Load ``base[index]`` of an array of integers or floats."""
        size = kind.width // 8 if isinstance(kind, ir.IntType) else 4
        where = self.builder.add(base, self.builder.mul(index, I64(size)))
        return self.fetch(kind, where, align=size)

    def integer(self, bits: int, base: Value, index: Value) -> Value:
        """Load ``base[index]`` of an array of unsigned integers, as int64."""
        value = self.item(ir.IntType(bits), base, index)
        return value if bits == 64 else self.builder.zext(value, I64)

    def row(self, base: Value, number: Value, stride: Value) -> Value:
        """Return the address of row ``number`` of rows that are ``stride`` bytes apart."""
        return self.builder.add(base, self.builder.mul(number, stride))

    def at(self, row: Value, piece: Piece) -> Value:
        """Return the address of a piece of the float32 row at address ``row``."""
        return self.builder.add(row, I64(4 * piece.start))

    def minimum(self, left: Value, right: Value) -> Value:
        """Return the smaller of two int64."""
        return self.builder.select(self.builder.icmp_signed("<", left, right), left, right)

    def call(self, name: str, kind: ir.Type, *arguments: Value) -> Value:
        """Call an LLVM intrinsic by its full name."""
        signature = ir.FunctionType(kind, [argument.type for argument in arguments])
        return self.builder.call(self._declared(name, signature), arguments)

    def prefetch_row(
        self, row: Value, pieces: Sequence[Piece], size: int = 4, cache: int = 2
    ) -> None:
        """Prefetch the cache lines of the pieces of a row of ``size``-byte elements.

        By default they go to the second-level cache, and never for writing, which would take
        them to the first: it has fewer buffers for outstanding misses, and the latency of those
        is what random rows cost. The first level is for rows that are in a cache already.
        """
        first, end = pieces[0].start * size, (pieces[-1].start + pieces[-1].lanes) * size
        for offset in range(first, end, CACHE_LINE):
            where = self.builder.inttoptr(self.builder.add(row, I64(offset)), POINTER)
            self.prefetch(where, cache=cache)

    def weights(self, number: Value, split: bool, low: bool = True) -> Weights:
        """Return row ``number`` by the kernel's arguments ``table``, ``row_stride`` and ``low``."""
        base = self.row(self["table"], number, self["row_stride"])
        if not split:
            return Weights(base)
        return Weights(base, 2, self.row(self["low"], number, self["row_stride"]) if low else None)

    def read_weights(self, row: Weights, piece: Piece) -> Value:
        """Load what forward and backward read: of split weights the high bits, as float32."""
        if row.size == 4:
            return self.fetch(piece.kind, self.at(row.base, piece))
        return self.builder.bitcast(self._load_bits(row.base, piece, 16), piece.kind)

    def fetch_weights(self, row: Weights, piece: Piece) -> Value:
        """Load what optimizers read: all bits."""
        if row.size == 4:
            return self.read_weights(row, piece)
        high = self._load_bits(row.base, piece, 16)
        low = self._load_bits(row.low, piece, 0)
        return self.builder.bitcast(self.builder.or_(high, low), piece.kind)

    def put_weights(self, value: Value, row: Weights, piece: Piece) -> None:
        """Store a piece of a row, split if the row is."""
        if row.size == 4:
            self.put(value, self.at(row.base, piece))
            return
        bits = self.builder.bitcast(value, piece.of(I32))
        shifted = self.builder.lshr(bits, self._integers(piece, 16))
        for part, address in ((shifted, row.base), (bits, row.low)):
            short = self.builder.trunc(part, piece.of(I16))
            self.builder.store(short, self._pointer_16(address, piece), align=2)

    def prefetch_weights(self, row: Weights, pieces: Sequence[Piece]) -> None:
        """Prefetch the pieces of a row at the addresses that are given."""
        self.prefetch_row(row.base, pieces, row.size)
        if row.low is not None:
            self.prefetch_row(row.low, pieces, row.size)

    def _load_bits(self, address: Value, piece: Piece, shift: int) -> Value:
        """Load a piece of 16-bit integers as 32-bit ones, shifted to the left."""
        loaded = self.builder.load(self._pointer_16(address, piece), typ=piece.of(I16), align=2)
        bits = self.builder.zext(loaded, piece.of(I32))
        return self.builder.shl(bits, self._integers(piece, shift)) if shift else bits

    def _pointer_16(self, address: Value, piece: Piece) -> Value:
        return self.builder.inttoptr(self.builder.add(address, I64(2 * piece.start)), POINTER)

    def _integers(self, piece: Piece, value: int) -> Value:
        return ir.Constant(piece.of(I32), value if piece.lanes == 1 else [value] * piece.lanes)

    def zeros(self, piece: Piece) -> Value:
        """Return a piece of zeros."""
        return ir.Constant(piece.kind, 0.0 if piece.lanes == 1 else [0.0] * piece.lanes)

    def splat(self, scalar: Value, lanes: int) -> Value:
        """Return a vector with a scalar in every lane."""
        if lanes == 1:
            return scalar
        vector = ir.VectorType(F32, lanes)
        single = self.builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, I32(0))
        mask = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
        return self.builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), mask)

    def fma(self, x: Value, y: Value, z: Value) -> Value:
        """Return ``x * y + z``, rounded once."""
        lanes = getattr(x.type, "count", 1)
        suffix = "f32" if lanes == 1 else f"v{lanes}f32"
        return self.call(f"llvm.fma.{suffix}", x.type, x, y, z)

    def sqrt(self, x: Value) -> Value:
        """Return the square root of every lane."""
        lanes = getattr(x.type, "count", 1)
        suffix = "f32" if lanes == 1 else f"v{lanes}f32"
        return self.call(f"llvm.sqrt.{suffix}", x.type, x)

    def lane_sum(self, x: Value) -> Value:
        """Return the sum of the lanes, added pairwise: few steps, and a fixed order."""
        lanes = getattr(x.type, "count", 1)
        if lanes == 1:
            return x
        while lanes > 1:
            lanes //= 2
            low = self.shuffle(x, x, range(lanes))
            x = self.builder.fadd(low, self.shuffle(x, x, range(lanes, 2 * lanes)))
        return self.builder.extract_element(x, I32(0))
