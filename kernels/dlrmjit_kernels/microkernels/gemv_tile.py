"""The register tile for a single column of C: dot products of several rows of A with a vector.

``GemmTile`` would use one lane of its vectors here, so this tile runs along the reduction
instead. Contract and arguments are those of ``GemmTile`` with ``cols``, ``a_step`` and ``b_row``
1. At the end the lanes of a row's sum are added pairwise, then the sum of the remainder that did
not fill a vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from llvmlite import ir

from dlrmjit_kernels.codegen.activations import Activation, activate, through_activation
from dlrmjit_kernels.codegen.emitter import I32, Emitter, Value, integer
from dlrmjit_kernels.codegen.tile_finish import ARGUMENTS
from dlrmjit_kernels.runtime.target import Target

_BLOCKS_AHEAD = 4  # memory-bound, and blocks of A are too far apart for the hardware prefetcher
_Load = Callable[[Value], Value]
_MultiplyAdd = Callable[[Value, Value, Value], Value]


@dataclass(frozen=True)
class GemvTile:
    """Parameters of the kernel, as in ``GemmTile``."""

    rows: int
    a_row: int
    accumulate: bool = False
    bias: bool = False
    activation: Activation = Activation.NONE
    slope: Activation = Activation.NONE

    @property
    def symbol(self) -> str:
        """Name of the function: every field, in order."""
        return "gemv_" + "_".join(str(int(getattr(self, f.name))) for f in fields(self))

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        _GemvTileEmitter(self, module, target).emit()


class _GemvTileEmitter(Emitter):
    """Emits one :class:`GemvTile`: a vector and a scalar sum per row, joined in the epilogue."""

    def __init__(self, spec: GemvTile, module: ir.Module, target: Target) -> None:
        super().__init__(module, spec.symbol, ARGUMENTS, target.lanes)
        self.spec = spec

    def emit(self) -> None:
        rows = self.spec.rows
        sums = self._reduce([self.zero()] * rows + [self.scalar(0)] * rows)
        c, mask = self["c"], self["mask"]
        for vector, rest in zip(sums[:rows], sums[rows:], strict=True):
            value = self.builder.fadd(self.total(vector), rest)
            self.store_scalar(self._epilogue(value, c, mask), c)
            c, mask = self.offset(c, self["c_row"]), self.offset(mask, self["mask_row"])
        self.finish()

    def _reduce(self, sums: list[Value]) -> list[Value]:
        final = self.builder.sub(self["blocks"], integer(1))
        with self.loop(self["blocks"], [self["a"], self["b"], *sums]) as blocks:
            a, b, *sums = blocks.values
            is_last = self.builder.icmp_signed("==", blocks.index, final)
            length = self.builder.select(is_last, self["last"], self["length"])
            sums = self._reduce_block(a, b, length, sums)
            a, b = self.offset(a, self["a_block"]), self.offset(b, self["b_block"])
            blocks.carry([a, b, *sums])
        return blocks.values[2:]

    def _reduce_block(self, a: Value, b: Value, length: Value, sums: list[Value]) -> list[Value]:
        rows = self.spec.rows
        whole = self.builder.sdiv(length, integer(self.lanes))
        distance = self.builder.mul(self["a_block"], integer(_BLOCKS_AHEAD))
        with self.loop(whole, [a, b, *sums[:rows]]) as loop:
            a, b, *vectors = loop.values
            for p in self._rows(a):
                self.prefetch(self.offset(p, distance))
            vectors = self._add_products(a, b, vectors, self.load, self.multiply_add)
            loop.carry([self.offset(a, self.lanes), self.offset(b, self.lanes), *vectors])
        a, b, *vectors = loop.values
        with self.loop(
            self.builder.srem(length, integer(self.lanes)), [a, b, *sums[rows:]]
        ) as loop:
            a, b, *rests = loop.values
            rests = self._add_products(a, b, rests, self.load_scalar, self.multiply_add_scalar)
            loop.carry([self.offset(a, 1), self.offset(b, 1), *rests])
        return vectors + loop.values[2:]

    def _add_products(
        self, a: Value, b: Value, sums: list[Value], load: _Load, multiply_add: _MultiplyAdd
    ) -> list[Value]:
        factor = load(b)
        return [multiply_add(load(p), factor, s) for p, s in zip(self._rows(a), sums, strict=True)]

    def _rows(self, a: Value) -> list[Value]:
        return [self.offset(a, r * self.spec.a_row) for r in range(self.spec.rows)]

    def _epilogue(self, value: Value, c: Value, mask: Value) -> Value:
        if self.spec.accumulate:
            value = self.builder.fadd(value, self.load_scalar(c))
        if self.spec.bias:
            value = self.builder.fadd(value, self.load_scalar(self["bias"]))
        if not (self.spec.activation or self.spec.slope):
            return value
        vector = self.broadcast(value)
        if self.spec.slope:
            stored = self.broadcast(self.load_scalar(mask))
            return self._first(through_activation(self, vector, stored, self.spec.slope))
        vector, slope = activate(self, vector, self.spec.activation)
        if slope is not None:
            self.store_scalar(self._first(slope), mask)
        return self._first(vector)

    def _first(self, vector: Value) -> Value:
        return self.builder.extract_element(vector, I32(0))
