"""What the row micro-kernels are written with: loops, vector pieces of a row, arithmetic on them.

A row of any width is a list of pieces: full vectors, then halves down to one element, so no
kernel reads or writes past a row's end and neighbouring rows may belong to other threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.ir import F32, I64, POINTER, Emitter, Value
from dlrmjit_kernels.target import Target

I32 = ir.IntType(32)
CACHE_LINE = 64


@dataclass(frozen=True)
class Piece:
    """``lanes`` adjacent elements of a row, from element ``start``."""

    start: int
    lanes: int

    @property
    def kind(self) -> ir.Type:
        """LLVM type of the piece in a register."""
        return F32 if self.lanes == 1 else ir.VectorType(F32, self.lanes)


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

    def prefetch_row(self, row: Value, pieces: Sequence[Piece], write: bool = False) -> None:
        """Start loading the cache lines that hold the pieces of a row."""
        first, end = pieces[0].start * 4, (pieces[-1].start + pieces[-1].lanes) * 4
        for offset in range(first, end, CACHE_LINE):
            where = self.builder.inttoptr(self.builder.add(row, I64(offset)), POINTER)
            self.prefetch(where, write)

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
