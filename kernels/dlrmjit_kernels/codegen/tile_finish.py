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
from dlrmjit_kernels.codegen.emitter import I64, POINTER, Emitter, Value
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
        self._prefetch_rows("c", [self["c"]])
        if self.tile.has_mask or self.tile.cross:
            self._prefetch_rows("mask", moved(self, self["mask"], self.distances))

    def _prefetch_rows(self, name: str, rows: list[Value]) -> None:
        for _ in range(self.tile.rows):
            for row in rows:
                for line in range(0, 4 * self.cols, CACHE_LINE):
                    self.prefetch(self.offset(row, line, size=1), for_write=name == "c")
            rows = [self.offset(row, self[f"{name}_row"]) for row in rows]

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
        c, mask = self["c"], self["mask"]
        for r in range(self.tile.rows):
            row = sums[r * self.vectors : (r + 1) * self.vectors]
            writes = [self._epilogue(value, c, mask, v) for v, value in enumerate(row)]
            for value, pointer in itertools.chain(*writes):  # vectors of a row may overlap
                self.store(value, pointer, self.active)
            c, mask = self.offset(c, self["c_row"]), self.offset(mask, self["mask_row"])

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
