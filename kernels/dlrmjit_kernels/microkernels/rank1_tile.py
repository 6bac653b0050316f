"""The tile of a reduction of length one: a column of A times a row of B.

Nothing is summed, so accumulators do not bound the height of a tile: it has as many rows as are
evenly spaced, because every call costs, and otherwise only writing C does. Contract and
arguments are those of ``GemmTile`` with one block of length one; nothing is prefetched.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from llvmlite import ir

from dlrmjit_kernels.codegen.activations import Activation, activate, through_activation
from dlrmjit_kernels.codegen.emitter import Emitter, Value, integer
from dlrmjit_kernels.codegen.tile_finish import ARGUMENTS
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.target import Target

_UNROLL = 4


@dataclass(frozen=True)
class Rank1Tile:
    """Parameters of the kernel, as in ``GemmTile``."""

    rows: int
    cols: int
    a_row: int
    bias: bool = False
    activation: Activation = Activation.NONE
    slope: Activation = Activation.NONE

    @property
    def symbol(self) -> str:
        """Name of the function: every field, in order."""
        return "rank1_" + "_".join(str(int(getattr(self, f.name))) for f in fields(self))

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        _Rank1TileEmitter(self, module, target).emit()


class _Rank1TileEmitter(Emitter):
    """Emits one :class:`Rank1Tile`: a loop over rows, the row of B in registers."""

    def __init__(self, spec: Rank1Tile, module: ir.Module, target: Target) -> None:
        super().__init__(module, spec.symbol, ARGUMENTS, target.lanes)
        self.spec = spec
        self.vectors = ceil_div(spec.cols, self.lanes)
        self.edge = spec.cols - (self.vectors - 1) * self.lanes

    def emit(self) -> None:
        row = [self._load_row(self["b"], v) for v in range(self.vectors)]
        bias = [self._load_row(self["bias"], v) for v in range(self.vectors * self.spec.bias)]
        pointers = [self["a"], self["c"], self["mask"]]
        for height in (_UNROLL, 1):
            count = self.spec.rows // _UNROLL if height > 1 else self.spec.rows % _UNROLL
            with self.loop(integer(count), pointers) as loop:
                pointers = loop.values
                for _ in range(height):
                    self._write_row(pointers, row, bias)
                    pointers = self._next_row(pointers)
                loop.carry(pointers)
            pointers = loop.values
        self.finish()

    def _next_row(self, pointers: list[Value]) -> list[Value]:
        a, c, mask = pointers
        following = [self.offset(a, self.spec.a_row), self.offset(c, self["c_row"])]
        return [*following, self.offset(mask, self["mask_row"])]

    def _write_row(self, pointers: list[Value], row: list[Value], bias: list[Value]) -> None:
        a, c, mask = pointers
        factor = self.broadcast(self.load_scalar(a))
        for v in range(self.vectors):
            value = self.builder.fmul(factor, row[v])
            if self.spec.bias:
                value = self.builder.fadd(value, bias[v])
            value = self._finished(value, mask, v)
            self.store(value, self.offset(c, v * self.lanes), self._active(v))

    def _finished(self, value: Value, mask: Value, v: int) -> Value:
        if self.spec.slope:
            return through_activation(self, value, self._load_row(mask, v), self.spec.slope)
        value, slope = activate(self, value, self.spec.activation)
        if slope is not None:
            self.store(slope, self.offset(mask, v * self.lanes), self._active(v))
        return value

    def _load_row(self, pointer: Value, vector: int) -> Value:
        return self.load(self.offset(pointer, vector * self.lanes), self._active(vector))

    def _active(self, vector: int) -> int:
        return self.edge if vector == self.vectors - 1 else self.lanes
