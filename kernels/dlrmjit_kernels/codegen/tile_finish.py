"""What every GEMM tile does around its sums: prefetches before them, the epilogue after them.

The contract is that of :mod:`dlrmjit_kernels.microkernels.gemm_tile`. How sums are made differs by
processor.
"""

from __future__ import annotations

import itertools
from typing import Any

from llvmlite import ir

from dlrmjit_kernels.codegen.activations import activate, through_activation
from dlrmjit_kernels.codegen.cross_finish import Write, cross, load_distances, moved
from dlrmjit_kernels.codegen.emitter import I64, POINTER, Emitter, Value, integer
from dlrmjit_kernels.runtime.integers import ceil_div

CACHE_LINE = 64

ARGUMENTS: dict[str, ir.Type] = {
    "a": POINTER,
    "b": POINTER,
    "c": POINTER,
    "bias": POINTER,
    "mask": POINTER,
    "a_block": I64,
    "b_block": I64,
    "blocks": I64,
    "length": I64,
    "last": I64,
    "c_row": I64,
    "mask_row": I64,
    "ahead": I64,
    "others": POINTER,
}


class TileEmitter(Emitter):
    """Emits the parts of a GemmTile, ``spec``, that do not depend on how its sums are made.

    Sums are vectors of ``lanes`` elements, ``vectors`` for each row of the tile.
    """

    def __init__(self, spec: Any, module: ir.Module, lanes: int) -> None:
        super().__init__(module, spec.symbol, ARGUMENTS, lanes)
        self.tile = spec
        self.cols: int = spec.cols
        self.vectors = ceil_div(spec.cols, self.lanes)
        self.distances = load_distances(self, spec.cross)

    def prefetch_tile(self) -> None:
        """Prefetch the lines of C, the mask and others, which arrive during the reduction."""
        size = 2 if self.tile.pair_row else 4  # bytes of a number in a row
        self._prefetch_rows([self["c"]], self["c_row"], self.tile.rows, size, for_write=True)
        if self.tile.has_mask or self.tile.cross:
            masks = moved(self, self["mask"], self.distances)
            self._prefetch_rows(masks, self["mask_row"], self.tile.rows, size)
        if self.tile.pair_row:
            step, count = integer(self.tile.pair_row), ceil_div(self.tile.rows, 2)
            self._prefetch_rows([self["others"]], step, count, 4, for_write=True)

    def _prefetch_rows(
        self, rows: list[Value], step: Value, count: int, size: int, for_write: bool = False
    ) -> None:
        for _ in range(count):
            for row in rows:
                for line in range(0, size * self.cols, CACHE_LINE):
                    self.prefetch(self.offset(row, line, size=1), for_write=for_write)
            rows = [self.offset(row, step) for row in rows]

    def load_row(self, pointer: Value, vector: int) -> Value:
        """Load the vector of that number in a row of the tile."""
        return self.load_active(self.offset(pointer, self.first_column(vector)))

    def load_active(self, pointer: Value) -> Value:
        """Load a vector of as many elements as lanes are in use."""
        return self.load(pointer, self.active)

    def first_column(self, vector: int) -> int:
        """Return the column of a vector's first lane; the last one overlaps to end with the row."""
        return max(0, min(vector * self.lanes, self.cols - self.lanes))

    @property
    def active(self) -> int:
        """Lanes in use, which are all unless the only vector is wider than the row."""
        return min(self.lanes, self.cols)

    def finish_tile(self, sums: list[Value]) -> None:
        """Write C, and the mask if the activation has slopes, from the sums."""
        if self.tile.pair_row:
            self._finish_pairs(sums)
            return
        c, mask = self["c"], self["mask"]
        for r in range(self.tile.rows):
            row = sums[r * self.vectors : (r + 1) * self.vectors]
            writes = [self._epilogue(value, c, mask, v) for v, value in enumerate(row)]
            for value, pointer in itertools.chain(*writes):  # vectors of a row may overlap
                self.store(value, pointer, self.active)
            c, mask = self.offset(c, self["c_row"]), self.offset(mask, self["mask_row"])

    def _finish_pairs(self, sums: list[Value]) -> None:
        """Write C as BF16 numbers, row by row, and as pairs of each even row and the next."""
        c, mask, pairs = self["c"], self["mask"], self["others"]
        rows = [sums[i : i + self.vectors] for i in range(0, len(sums), self.vectors)]
        for top in range(0, len(rows), 2):
            finished = []
            for row in rows[top : top + 2]:
                finished.append([self._finished(value, mask, v) for v, value in enumerate(row)])
                for v, value in enumerate(finished[-1]):
                    column = self.offset(c, self.first_column(v), size=2)
                    self.store_bf16(value, column, self.active)
                c, mask = self.offset(c, self["c_row"]), self.offset(mask, self["mask_row"])
            finished.append([self.zero()] * self.vectors)  # the partner of a last, even row
            for v, (even, odd) in enumerate(zip(*finished[:2], strict=True)):
                column = self.offset(pairs, self.first_column(v))
                self.store(self.round_to_pairs(even, odd, interleave=True), column, self.active)
            pairs = self.offset(pairs, self.tile.pair_row)

    def _finished(self, value: Value, mask: Value, v: int) -> Value:
        """Return a vector of a C in pairs; the mask is BF16 numbers."""
        if self.tile.bias:
            value = self.builder.fadd(value, self.load_row(self["bias"], v))
        if self.tile.slope:
            column = self.offset(mask, self.first_column(v), size=2)
            stored = self.load_bf16(column, self.active)
            return through_activation(self, value, stored, self.tile.slope)
        return activate(self, value, self.tile.activation).value

    def _epilogue(self, value: Value, c: Value, mask: Value, v: int) -> list[Write]:
        """Return what to write for one vector of sums, the vector of C last."""
        tile = self.tile
        if tile.accumulate:
            value = self.builder.fadd(value, self.load_row(c, v))
        if tile.bias:
            value = self.builder.fadd(value, self.load_row(self["bias"], v))
        c, mask = self.offset(c, self.first_column(v)), self.offset(mask, self.first_column(v))
        if tile.cross:
            pointers = moved(self, mask, self.distances)
            value, writes = cross(self, tile.cross, value, pointers, self.load_active)
            return [*writes, (value, c)]
        if tile.slope:
            stored = self.load_active(mask)
            return [(through_activation(self, value, stored, tile.slope), c)]
        value, slope = activate(self, value, tile.activation)
        return [(value, c)] if slope is None else [(slope, mask), (value, c)]
