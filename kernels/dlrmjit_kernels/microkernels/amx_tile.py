"""The tile of BF16 pairs on a processor with tile registers: four of them hold sums.

The contract is that of :mod:`.gemm_tile`. A step of the reduction is 16 pairs. Fewer that remain
at the end of a block are first copied to the stack, with zeros after them, because the shapes of
registers cannot change while they hold sums. The sums pass through the stack to the epilogue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import I64, Value, integer
from dlrmjit_kernels.codegen.tile_finish import TileEmitter
from dlrmjit_kernels.codegen.tile_registers import TILE_PAIRS, TILE_ROWS, TileRegisters
from dlrmjit_kernels.runtime.integers import ceil_div

if TYPE_CHECKING:
    from dlrmjit_kernels.microkernels.gemm_tile import GemmTile

_MOST = 2  # registers down and across the tile
_OF_A, _OF_B = 4, 6  # the first register of each operand; sums have those before


class AmxTileEmitter(TileEmitter):
    """Emits one tile of up to 32 x 32 sums."""

    def __init__(self, spec: GemmTile, module: ir.Module) -> None:
        super().__init__(spec, module, TILE_PAIRS)
        self.spec = spec
        self.tiles = TileRegisters(self)
        self.heights = _parts(spec.rows, ceil_div(spec.rows, TILE_ROWS))
        self.widths = _widths(spec.cols)

    def emit(self) -> None:
        """Define the kernel."""
        self.prefetch_tile()
        self._configure()
        with self.loop(self["blocks"], [self["a"], self["b"]]) as blocks:
            a, b = blocks.values
            final = self.builder.sub(self["blocks"], integer(1))
            is_last = self.builder.icmp_signed("==", blocks.index, final)
            self._add_block(a, b, self.builder.select(is_last, self["last"], self["length"]))
            blocks.carry([self.offset(a, self["a_block"]), self.offset(b, self["b_block"])])
        sums = self._sums()
        self.tiles.release()
        self.finish_tile(sums)
        self.finish()

    def _configure(self) -> None:
        shapes = {}
        for i, rows in enumerate(self.heights):
            shapes[_OF_A + i] = (rows, TILE_PAIRS)
            for j, cols in enumerate(self.widths):
                shapes[_MOST * i + j] = (rows, cols)
                shapes[_OF_B + j] = (TILE_PAIRS, cols)
        self.tiles.configure(shapes)

    def _add_block(self, a: Value, b: Value, length: Value) -> None:
        """Add the product of a block of ``length`` pairs."""
        pairs = integer(TILE_PAIRS)
        a_step, b_step = TILE_PAIRS * self.spec.a_step, TILE_PAIRS * self.spec.b_row
        with self.loop(self.builder.sdiv(length, pairs), [a, b]) as steps:
            a, b = steps.values
            self._add_step(a, b, self.spec.a_row, self.spec.b_row)
            steps.carry([self.offset(a, a_step), self.offset(b, b_step)])
        a, b = steps.values
        left = self.builder.srem(length, pairs)
        any_left = self.builder.icmp_signed(">", left, integer(0))
        with self.loop(self.builder.zext(any_left, I64)):
            self._add_step(self._padded_a(a, left), self._padded_b(b, left), *self._padded_rows)

    @property
    def _padded_rows(self) -> tuple[int, int]:
        """Elements from row to row of the padded copies of A and B."""
        return (TILE_PAIRS if self.spec.a_row else 0), _MOST * TILE_PAIRS

    def _add_step(self, a: Value, b: Value, a_row: int, b_row: int) -> None:
        """Add the product of 16 pairs of every row of A and as many rows of B."""
        first = 0
        for i, rows in enumerate(self.heights):
            self.tiles.load(_OF_A + i, self.offset(a, first * a_row), a_row)
            for j in range(len(self.widths)):
                if i == 0:
                    self.tiles.load(_OF_B + j, self.offset(b, j * TILE_PAIRS), b_row)
                self.tiles.dot_pairs(_MOST * i + j, _OF_A + i, _OF_B + j)
            first += rows

    def _padded_a(self, a: Value, left: Value) -> Value:
        """Copy the first ``left`` pairs of every row of A, with zeros after them."""
        rows = self.spec.rows if self.spec.a_row else 1
        copy = self.tiles.memory(rows * TILE_PAIRS)
        mask = self.first(left)
        for r in range(rows):
            row = self.load_masked(self.offset(a, r * self.spec.a_row), mask)
            self.store(row, self.offset(copy, r * TILE_PAIRS))
        return copy

    def _padded_b(self, b: Value, left: Value) -> Value:
        """Copy the first ``left`` rows of B; those after them are zero."""
        width = _MOST * TILE_PAIRS
        copy = self.tiles.memory(TILE_PAIRS * width)
        for l in range(TILE_PAIRS):  # noqa: E741 - the reduction index of the contract
            active = self.builder.icmp_signed("<", integer(l), left)
            for j, cols in enumerate(self.widths):
                count = self.builder.select(active, integer(cols), integer(0))
                source = self.offset(b, l * self.spec.b_row + j * TILE_PAIRS)
                row = self.load_masked(source, self.first(count))
                self.store(row, self.offset(copy, l * width + j * TILE_PAIRS))
        return copy

    def _sums(self) -> list[Value]:
        """Return the vectors of sums, row after row."""
        width = _MOST * TILE_PAIRS
        memory, first = self.tiles.memory(self.spec.rows * width), 0
        for i, rows in enumerate(self.heights):
            for j in range(len(self.widths)):
                corner = self.offset(memory, first * width + j * TILE_PAIRS)
                self.tiles.store(_MOST * i + j, corner, width)
            first += rows
        rows_of_sums = [self.offset(memory, r * width) for r in range(self.spec.rows)]
        return [self.load_row(row, v) for row in rows_of_sums for v in range(self.vectors)]


def _parts(extent: int, parts: int) -> list[int]:
    """Return ``extent`` cut into parts that differ by at most one."""
    return [extent // parts + (part < extent % parts) for part in range(parts)]


def _widths(cols: int) -> list[int]:
    """Return the columns of the registers across a tile."""
    return [min(TILE_PAIRS, cols - first) for first in range(0, cols, TILE_PAIRS)]
