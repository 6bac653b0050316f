"""The GEMM micro-kernel: a register tile of C, from a batch of products of blocks.

In NumPy, with ``a[i]`` of shape (rows, length) and ``b[i]`` of shape (length, cols)::

    c = finish((c if accumulate else 0) + sum(a[i] @ b[i] for i in range(blocks)))

where ``finish`` adds ``bias[cols]`` and applies ``activation``; or it returns the gradient before
the activation ``slope``, given in ``mask`` what the forward pass stored of it. An activation that
``has_slopes`` writes its derivatives to ``mask``. Or it is the finish of a cross layer
(:mod:`dlrmjit_kernels.codegen.cross_finish`), for which ``others`` is the address of int64.

Contract. All strides count elements. Element (r, l) of ``a[i]`` is at ``a + i * a_block +
r * a_row + l * a_step``, plus ``skip`` for rows from ``split`` on if ``split`` is not zero; element
(l, c) of ``b[i]`` is at ``b + i * b_block + l * b_row + c``; element (r, c) of C is at ``c +
r * c_row + c``, and that of ``mask`` alike. The last block has ``last`` steps of the reduction,
the others ``length``. Nothing outside these elements is read or written, no alignment beyond 4
bytes is assumed, and C is read only to ``accumulate``. C must not overlap A or B.

Accumulators stay in registers from the first block to the last. A small tile has several per
element, added at the end, because one chain of dependent multiply-adds would wait for its latency.

Prefetches. Every ``UNROLL`` steps, the cache line ``ahead`` bytes after the row of B, which a
later tile reads first; tiles of one row prefetch all such lines. Where A is read along its rows,
also lines of its next block, or in the last block those of the tile below: consecutive blocks are
not adjacent, and the hardware prefetcher cannot guess their addresses. The lines of C and of the
mask are prefetched before the first step.

``operands`` is the types of A and B. Other than with ``FP32``, a step of the reduction is a BF16
pair (:mod:`dlrmjit_kernels.codegen.emitter`): ``length`` and ``last`` count pairs, and an element
of B is a pair. With ``BF16``, an element of A is one too; pairs are multiplied by an instruction
that treats denormals as zero, in tile registers where there are some (:mod:`.amx_tile`); where A
does not advance, ``a_step`` 0, 16 equal pairs are at its address. With ``MIXED``, A is float32, and
the second number of a pair is ``a_step // 2`` after the first; with ``odd``, A has no second number
for the very last pair, and is not read there. Sums are always float32.

With ``offsets``, blocks are not evenly spaced. ``a_block`` is the address of a table of pairs of
int64, elements from ``a`` to block i of A and from ``b`` to that of B; one more pair, which is
only prefetched, ends it. ``b_block`` is the number of blocks that are ``length`` steps long, before
those of ``last`` steps.

With ``pair_row`` C is rounded to BF16, to nearest even, denormals to zero, and written twice: with
the number of (r, c) 2 * c bytes after ``c + r * c_row``, so that neighbours in a row are pairs, and
at ``others`` as pairs of rows, those of rows 2 * r and 2 * r + 1 from ``others + r * pair_row`` on,
zeros beside the last of an odd number. The mask has BF16 numbers like the first. Only for targets
with BF16 instructions; C is neither accumulated nor that of a cross layer, and an activation has no
slopes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

from llvmlite import ir

from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.codegen.cross_finish import Cross
from dlrmjit_kernels.codegen.emitter import I64, POINTER, Value, integer
from dlrmjit_kernels.codegen.tile_finish import CACHE_LINE, TileEmitter
from dlrmjit_kernels.microkernels.amx_tile import AmxTileEmitter
from dlrmjit_kernels.runtime.integers import ceil_div, round_up
from dlrmjit_kernels.runtime.target import Target

UNROLL = 4
_CHAINS = 8  # independent accumulators that hide the latency of a multiply-add


class Operands(IntEnum):
    """Types of A and B: float32 both, float32 and BF16, or BF16 both."""

    FP32 = 0
    MIXED = 1
    BF16 = 2


@dataclass(frozen=True)
class GemmTile:
    """Parameters of the kernel; the module's contract explains the strides."""

    rows: int
    cols: int
    a_row: int
    a_step: int
    b_row: int
    accumulate: bool = False
    bias: bool = False
    activation: Activation = Activation.NONE
    slope: Activation = Activation.NONE
    operands: Operands = Operands.FP32
    odd: bool = False
    split: int = 0
    skip: int = 0
    cross: Cross = Cross.NONE
    offsets: bool = False
    pair_row: int = 0

    @property
    def has_mask(self) -> bool:
        """Whether ``mask`` is read or written."""
        return bool(self.slope) or Activation(self.activation).has_slopes

    @property
    def symbol(self) -> str:
        """Name of the function: every field, in order."""
        return "tile_" + "_".join(str(int(getattr(self, f.name))) for f in fields(self))

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        if self.operands is Operands.BF16 and target.amx and self.a_step < 2 and not self.split:
            AmxTileEmitter(self, module).emit()
        else:
            _VectorTileEmitter(self, module, target).emit()


def _lanes(cols: int, target: Target) -> int:
    """Return the lanes of the vectors for a row of ``cols`` elements.

    Without mask registers, a mask would take a vector register from the accumulators: there the
    widest vectors that the row fills, else the narrowest one that holds the row.
    """
    widest = cols.bit_length() - 1 if not target.masks else (cols - 1).bit_length()
    return min(target.lanes, max(4, 1 << widest))


class _VectorTileEmitter(TileEmitter):
    """Emits one :class:`GemmTile`: reduction over blocks, over a block, then the epilogue."""

    def __init__(self, spec: GemmTile, module: ir.Module, target: Target) -> None:
        super().__init__(spec, module, _lanes(spec.cols, target))
        self.spec = spec
        self.chains = max(1, min(UNROLL, ceil_div(_CHAINS, spec.rows * self.vectors)))
        read = 4 * UNROLL * spec.rows * spec.a_step  # bytes of A in UNROLL steps
        self.ahead_in_a = round_up(read, CACHE_LINE) if spec.a_step < spec.a_row else 0
        # Listed blocks of pixels that are read down their channels: a line of every pixel.
        self.steps_ahead = UNROLL if spec.offsets and not self.ahead_in_a else 0
        # Tiles below share the prefetches of B; a tile of one row has to issue them all.
        single = spec.rows == 1 and spec.a_step > 0
        self.ahead_in_b = 4 * UNROLL * spec.cols if single else CACHE_LINE
        self.numbers = (0, 1) if spec.operands is Operands.MIXED else (0,)  # of a pair

    def emit(self) -> None:
        self.prefetch_tile()
        tile = self.spec.rows * self.vectors
        reduce = self._reduce_listed if self.spec.offsets else self._reduce
        sums = reduce([self.zero()] * (tile * self.chains))
        if self.spec.odd:
            sums = self._add_last_number(sums)
        self.finish_tile(self._join(sums, tile))
        self.finish()

    def _join(self, sums: list[Value], tile: int) -> list[Value]:
        """Add the chains of every element of the tile."""
        for _ in range(self.chains - 1):
            pairs = zip(sums[:tile], sums[tile : 2 * tile], strict=True)
            sums = [self.builder.fadd(x, y) for x, y in pairs] + sums[2 * tile :]
        return sums

    def _reduce(self, sums: list[Value]) -> list[Value]:
        final = self.builder.sub(self["blocks"], integer(1))
        with self.loop(self["blocks"], [self["a"], self["b"], *sums]) as blocks:
            a, b, *sums = blocks.values
            is_last = self.builder.icmp_signed("==", blocks.index, final)
            length = self.builder.select(is_last, self._whole_steps(), self["length"])
            following = self.offset(a, self["a_block"])
            after = self.builder.select(is_last, self._next_tile(), following)
            sums = self._reduce_block(a, b, after, length, sums)
            a, b = following, self.offset(b, self["b_block"])
            blocks.carry([a, b, *sums])
        return blocks.values[2:]

    def _reduce_listed(self, sums: list[Value]) -> list[Value]:
        """Return the sums over the blocks of a table of offsets."""
        builder = self.builder
        final = builder.sub(self["blocks"], integer(1))
        table = builder.inttoptr(self["a_block"], POINTER)
        with self.loop(self["blocks"], [table, *sums]) as blocks:
            entry, *sums = blocks.values
            following = self.offset(entry, 2, size=8)
            a = self.offset(self["a"], self._load_offset(entry))
            b = self.offset(self["b"], self._load_offset(self.offset(entry, 1, size=8)))
            is_last = builder.icmp_signed("==", blocks.index, final)
            base = builder.select(is_last, self._next_tile(), self["a"])
            after = self.offset(base, self._load_offset(following))
            is_whole = builder.icmp_signed("<", blocks.index, self["b_block"])
            length = builder.select(is_whole, self["length"], self["last"])
            blocks.carry([following, *self._reduce_block(a, b, after, length, sums)])
        return blocks.values[1:]

    def _load_offset(self, entry: Value) -> Value:
        return self.builder.load(entry, align=8, typ=I64)

    def _whole_steps(self) -> Value:
        """Return the steps of the last block, without a pair of which A has only one number."""
        last = self["last"]
        return self.builder.sub(last, integer(1)) if self.spec.odd else last

    def _add_last_number(self, sums: list[Value]) -> list[Value]:
        """Add the product of the first numbers of the very last pair to the first chain."""
        a, b = self._last_step("a", self.spec.a_step), self._last_step("b", self.spec.b_row)
        tile = self.spec.rows * self.vectors
        return self._add_product(a, b, 0, sums[:tile]) + sums[tile:]

    def _last_step(self, operand: str, step: int) -> Value:
        """Return the pointer to an operand's part of the very last step."""
        before = self.builder.sub(self["blocks"], integer(1))
        blocks = self.builder.mul(before, self[f"{operand}_block"])
        steps = self.builder.mul(self._whole_steps(), integer(step))
        return self.offset(self[operand], self.builder.add(blocks, steps))

    def _next_tile(self) -> Value:
        """Return the pointer to A of the tile below, if that is in the same block."""
        return self.offset(self["a"], self.spec.rows * self.spec.a_row)

    def _reduce_block(
        self, a: Value, b: Value, after: Value, length: Value, sums: list[Value]
    ) -> list[Value]:
        whole = self.builder.sdiv(length, integer(UNROLL))
        with self.loop(whole, [a, b, after, *sums]) as loop:
            a, b, after, *sums = loop.values
            ahead = self.offset(b, self["ahead"], size=1)
            for line in range(0, self.ahead_in_b, CACHE_LINE):
                self.prefetch(self.offset(ahead, line, size=1))
            for line in range(0, self.ahead_in_a, CACHE_LINE):
                self.prefetch(self.offset(after, line, size=1))
            for step in range(self.steps_ahead):
                self.prefetch(self.offset(after, step * self.spec.a_step))
            ahead_in_a = self.ahead_in_a or 4 * self.steps_ahead * self.spec.a_step
            after = self.offset(after, ahead_in_a, size=1)
            loop.carry([*self._steps(a, b, UNROLL), after, *self._sums(a, b, UNROLL, sums)])
        a, b, _, *sums = loop.values
        with self.loop(self.builder.srem(length, integer(UNROLL)), [a, b, *sums]) as loop:
            a, b, *sums = loop.values
            loop.carry([*self._steps(a, b, 1), *self._sums(a, b, 1, sums)])
        return loop.values[2:]

    def _steps(self, a: Value, b: Value, steps: int) -> list[Value]:
        """Return the pointers to A and B after ``steps`` of the reduction."""
        return [self.offset(a, steps * self.spec.a_step), self.offset(b, steps * self.spec.b_row)]

    def _sums(self, a: Value, b: Value, steps: int, sums: list[Value]) -> list[Value]:
        """Return the sums after ``steps`` of the reduction, which go to the chains round-robin."""
        tile = self.spec.rows * self.vectors
        for l in range(steps):  # noqa: E741 - the reduction index of the contract
            first = l % self.chains * tile
            changed = self._outer_product(a, b, l, sums[first : first + tile])
            sums = sums[:first] + changed + sums[first + tile :]
        return sums

    def _outer_product(self, a: Value, b: Value, l: int, sums: list[Value]) -> list[Value]:  # noqa: E741
        """Return ``sums + a[:, l] * b[l, :]``."""
        a = self.offset(a, l * self.spec.a_step)
        b = self.offset(b, l * self.spec.b_row)
        for number in self.numbers:
            sums = self._add_product(a, b, number, sums)
        return sums

    def _add_product(self, a: Value, b: Value, number: int, sums: list[Value]) -> list[Value]:
        """Add the product of a column of A and a row of B; of pairs, of their ``number``."""
        a = self.offset(a, number * (self.spec.a_step // 2))
        # Loading the pairs again takes fewer registers than holding both numbers upcast.
        b = self.opaque(b) if number else b
        row = [self._factors(b, v, number) for v in range(self.vectors)]
        following: list[Value] = []
        for r in range(self.spec.rows):
            factor = self.broadcast(self.load_scalar(self.offset(a, self._row_of_a(r))))
            old = sums[r * self.vectors : (r + 1) * self.vectors]
            following += [self._product(x, factor, s) for x, s in zip(row, old, strict=True)]
        return following

    def _row_of_a(self, r: int) -> int:
        """Return the elements from the first row of A to row ``r``."""
        skip = self.spec.skip if 0 < self.spec.split <= r else 0
        return r * self.spec.a_row + skip

    def _factors(self, b: Value, vector: int, number: int) -> Value:
        loaded = self.load_row(b, vector)
        return self.upcast_pair(loaded, number) if self.spec.operands is Operands.MIXED else loaded

    def _product(self, x: Value, factor: Value, total: Value) -> Value:
        if self.spec.operands is Operands.BF16:
            return self.dot_pairs(x, factor, total)
        return self.multiply_add(factor, x, total)
