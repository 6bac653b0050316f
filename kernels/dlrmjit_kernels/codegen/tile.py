"""The one GEMM micro-kernel: a register tile of C from a batch of block products.

In NumPy, with ``a[i]`` of shape (rows, length) and ``b[i]`` of shape (length, cols)::

    c = finish((c if accumulate else 0) + sum(a[i] @ b[i] for i in range(blocks)))

where ``finish`` adds ``bias[cols]`` and applies ReLU, or keeps what lies where ``mask > 0``.

Contract. All strides count elements. Element (r, l) of ``a[i]`` is at ``a + i * a_block +
r * a_row + l * a_step``, element (l, c) of ``b[i]`` at ``b + i * b_block + l * b_row + c``,
element (r, c) of C at ``c + r * c_row + c``, and of the mask alike. The last block is ``last``
long, the others ``length``. Nothing outside these elements is touched, no alignment beyond a
float's is assumed, and C is not read unless ``accumulate``. C may not overlap A or B.
Accumulators stay in registers from the first block to the last.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from llvmlite import ir

from dlrmjit_kernels.codegen.ir import I64, POINTER, Emitter, Value, integer
from dlrmjit_kernels.target import Target

UNROLL = 4

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
}


@dataclass(frozen=True)
class Tile:
    """What a tile kernel is specialised to; see the module's contract for the strides."""

    rows: int
    cols: int
    a_row: int
    a_step: int
    b_row: int
    accumulate: bool = False
    bias: bool = False
    relu: bool = False
    mask: bool = False

    @property
    def symbol(self) -> str:
        """Name of the function: every field, in order."""
        return "tile_" + "_".join(str(int(getattr(self, f.name))) for f in fields(self))

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        _TileEmitter(self, module, target).emit()


class _TileEmitter(Emitter):
    """Emits one :class:`Tile`: reduction over blocks, over a block, then the epilogue."""

    def __init__(self, spec: Tile, module: ir.Module, target: Target) -> None:
        super().__init__(module, spec.symbol, ARGUMENTS, target.lanes)
        self.spec = spec
        self.vectors = -(-spec.cols // self.lanes)
        self.edge = spec.cols - (self.vectors - 1) * self.lanes

    def emit(self) -> None:
        self._finish(self._reduce([self.zero()] * (self.spec.rows * self.vectors)))
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
        for step in (UNROLL, 1):
            turns = self.builder.sdiv(length, integer(UNROLL))
            if step == 1:
                turns = self.builder.srem(length, integer(UNROLL))
            with self.loop(turns, [a, b, *sums]) as loop:
                a, b, *sums = loop.values
                for l in range(step):  # noqa: E741 - the reduction index of the contract
                    sums = self._outer_product(a, b, l, sums)
                a, b = self._advance(a, b, step)
                loop.carry([a, b, *sums])
            a, b, *sums = loop.values
        return sums

    def _advance(self, a: Value, b: Value, steps: int) -> tuple[Value, Value]:
        spec = self.spec
        return self.offset(a, steps * spec.a_step), self.offset(b, steps * spec.b_row)

    def _outer_product(self, a: Value, b: Value, l: int, sums: list[Value]) -> list[Value]:  # noqa: E741
        """``sums += a[:, l] * b[l, :]``."""
        spec = self.spec
        row = [self._load_row(self.offset(b, l * spec.b_row), v) for v in range(self.vectors)]
        following: list[Value] = []
        for r in range(spec.rows):
            scalar = self.load_scalar(self.offset(a, r * spec.a_row + l * spec.a_step))
            factor = self.broadcast(scalar)
            old = sums[r * self.vectors : (r + 1) * self.vectors]
            following += [self.multiply_add(factor, x, s) for x, s in zip(row, old, strict=True)]
        return following

    def _load_row(self, pointer: Value, vector: int) -> Value:
        return self.load(self.offset(pointer, vector * self.lanes), self._active(vector))

    def _active(self, vector: int) -> int:
        return self.edge if vector == self.vectors - 1 else self.lanes

    def _finish(self, sums: list[Value]) -> None:
        c, mask = self["c"], self["mask"]
        for r in range(self.spec.rows):
            for v in range(self.vectors):
                value = self._epilogue(sums[r * self.vectors + v], c, mask, v)
                self.store(value, self.offset(c, v * self.lanes), self._active(v))
            c, mask = self.offset(c, self["c_row"]), self.offset(mask, self["mask_row"])

    def _epilogue(self, value: Value, c: Value, mask: Value, v: int) -> Value:
        spec = self.spec
        if spec.accumulate:
            value = self.builder.fadd(value, self._load_row(c, v))
        if spec.bias:
            value = self.builder.fadd(value, self._load_row(self["bias"], v))
        if spec.relu:
            value = self.relu(value)
        if spec.mask:
            value = self.keep_where_positive(value, self._load_row(mask, v))
        return value
