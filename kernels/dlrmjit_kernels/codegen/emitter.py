"""A layer over llvmlite: float32 vectors, masked edges and counted loops.

With it emitters read like the loops they emit; basic blocks and phi nodes stay in here.

A *BF16 pair* is 32 bits that hold two BF16 numbers, the first in the low 16 bits (the VNNI
layout). Vectors of pairs have the type of float32 vectors, because they are loaded, stored and
broadcast alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from llvmlite import ir

F32 = ir.FloatType()
I64 = ir.IntType(64)
I1 = ir.IntType(1)
I32 = ir.IntType(32)
_I16 = ir.IntType(16)
POINTER = ir.PointerType()
Value: TypeAlias = ir.Value


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's type ``bfloat``, which llvmlite lacks."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


BF16 = _BFloat()


def integer(value: int) -> Value:
    """Return a constant of 64 bits."""
    return ir.Constant(I64, value)


class Loop:
    """A loop that is being emitted: its index and the values carried into this iteration.

    After the loop, ``values`` are those carried out of the last iteration.
    """

    def __init__(self, index: Value, values: list[Value]) -> None:
        self.index = index
        self.values = values
        self.following: list[Value] = list(values)

    def carry(self, values: Sequence[Value]) -> None:
        """Set the ``values`` of the next iteration and of the code after the loop."""
        self.following = list(values)


class Emitter:
    """Emits one function over float32 vectors of ``lanes`` elements.

    Arguments of the function are pointers (``POINTER``) and 64-bit integers (``I64``), in the
    order of ``arguments``; ``emitter[name]`` returns one by name.
    """

    def __init__(
        self, module: ir.Module, name: str, arguments: dict[str, ir.Type], lanes: int
    ) -> None:
        signature = ir.FunctionType(ir.VoidType(), list(arguments.values()))
        self.function = ir.Function(module, signature, name)
        self._arguments = dict(zip(arguments, self.function.args, strict=True))
        for key, argument in self._arguments.items():
            argument.name = key
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.module = module
        self.lanes = lanes
        self.vector = ir.VectorType(F32, lanes)

    def __getitem__(self, name: str) -> Value:
        return self._arguments[name]

    def finish(self) -> None:
        """Return from the function."""
        self.builder.ret_void()

    def offset(self, pointer: Value, elements: Value | int, size: int = 4) -> Value:
        """Return ``pointer`` plus a number of elements of ``size`` bytes."""
        count = integer(elements) if isinstance(elements, int) else elements
        element = F32 if size == 4 else ir.IntType(8 * size)
        return self.builder.gep(pointer, [count], source_etype=element)

    def zero(self) -> Value:
        """Return a vector of zeros."""
        return ir.Constant(self.vector, [0.0] * self.lanes)

    def load(self, pointer: Value, active: int | None = None) -> Value:
        """Load the vector at ``pointer``: only the first ``active`` lanes, the others are zero."""
        if active is None or active == self.lanes:
            return self.builder.load(pointer, align=4, typ=self.vector)
        return self.load_masked(pointer, self._mask(active))

    def load_masked(self, pointer: Value, mask: Value) -> Value:
        """Load the vector at ``pointer``; lanes outside the mask are not read, but zero."""
        load = self._intrinsic("llvm.masked.load", self.vector, [POINTER, *self._mask_types()])
        return self.builder.call(load, [pointer, ir.Constant(I32, 4), mask, self.zero()])

    def store(self, value: Value, pointer: Value, active: int | None = None) -> None:
        """Write a vector, or its first ``active`` lanes, to ``pointer``."""
        if active is None or active == self.lanes:
            self.builder.store(value, pointer, align=4)
            return
        self.store_masked(value, pointer, self._mask(active))

    def store_masked(self, value: Value, pointer: Value, mask: Value) -> None:
        """Write the lanes within the mask to ``pointer``."""
        arguments = [self.vector, POINTER, I32, mask.type]
        function = self._declared(
            f"llvm.masked.store.v{self.lanes}f32.p0", ir.FunctionType(ir.VoidType(), arguments)
        )
        self.builder.call(function, [value, pointer, ir.Constant(I32, 4), mask])

    def first(self, count: Value) -> Value:
        """Return the mask of the first ``count`` lanes."""
        wide = ir.VectorType(I32, self.lanes)
        number = self.builder.trunc(count, I32)
        one = self.builder.insert_element(ir.Constant(wide, ir.Undefined), number, _lane(0))
        every = self.builder.shuffle_vector(one, one, ir.Constant(wide, [0] * self.lanes))
        lanes = ir.Constant(wide, list(range(self.lanes)))
        return self.builder.icmp_signed("<", lanes, every)

    def load_scalar(self, pointer: Value) -> Value:
        """Load the float32 at ``pointer``."""
        return self.builder.load(pointer, align=4, typ=F32)

    def store_scalar(self, value: Value, pointer: Value) -> None:
        """Write a float32 to ``pointer``."""
        self.builder.store(value, pointer, align=4)

    def scalar(self, value: float) -> Value:
        """Return a float32 constant."""
        return ir.Constant(F32, value)

    def broadcast(self, scalar: Value) -> Value:
        """Return a vector with ``scalar`` in every lane."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, _lane(0))
        lanes = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, lanes)

    def multiply_add(self, a: Value, b: Value, c: Value) -> Value:
        """Return ``a * b + c``, in one instruction where the target has it."""
        return self._multiply_add(f"llvm.fmuladd.v{self.lanes}f32", self.vector, (a, b, c))

    def multiply_add_scalar(self, a: Value, b: Value, c: Value) -> Value:
        """Return ``a * b + c`` of float32 scalars."""
        return self._multiply_add("llvm.fmuladd.f32", F32, (a, b, c))

    def upcast_pair(self, pairs: Value, element: int) -> Value:
        """Return the first (``element`` 0) or second number of every pair as float32, exactly."""
        kind = ir.VectorType(I32, self.lanes)
        bits = self.builder.bitcast(pairs, kind)
        if element:
            bits = self.builder.and_(bits, ir.Constant(kind, [0xFFFF0000] * self.lanes))
        else:
            bits = self.builder.shl(bits, ir.Constant(kind, [16] * self.lanes))
        return self.builder.bitcast(bits, self.vector)

    def pack_pairs(self, first: Value, second: Value | None = None) -> Value:
        """Return the pairs of float32 numbers that are BF16 already; ``second`` may be zeros."""
        second = self.zero() if second is None else second
        kind = ir.VectorType(I32, self.lanes)
        first, second = (self.builder.bitcast(x, kind) for x in (first, second))
        first = self.builder.lshr(first, ir.Constant(kind, [16] * self.lanes))
        second = self.builder.and_(second, ir.Constant(kind, [0xFFFF0000] * self.lanes))
        return self.builder.bitcast(self.builder.or_(first, second), self.vector)

    def round_to_pairs(self, low: Value, high: Value, interleave: bool) -> Value:
        """Return the pairs of ``low`` and ``high`` rounded to BF16, interleaved or concatenated.

        For targets with BF16 instructions.
        """
        numbers, bits = (ir.VectorType(kind, self.lanes) for kind in (BF16, ir.IntType(16)))
        rounded = [self.builder.fptrunc(x, numbers) for x in (low, high)]
        first, second = (self.builder.bitcast(x, bits) for x in rounded)
        order = list(range(2 * self.lanes))
        if interleave:
            order = [lane // 2 + lane % 2 * self.lanes for lane in order]
        return self.builder.bitcast(self._shuffle(first, second, order), self.vector)

    def load_bf16(self, pointer: Value, active: int | None = None) -> Value:
        """Load as many BF16 numbers as lanes, or only the first ``active``, as float32."""
        short, wide = self._shorts, ir.VectorType(I32, self.lanes)
        if active is None or active == self.lanes:
            bits = self.builder.load(pointer, align=2, typ=short)
        else:
            mask, zeros = self._mask(active), ir.Constant(short, [0] * self.lanes)
            signature = ir.FunctionType(short, [POINTER, I32, mask.type, short])
            load = self._declared(f"llvm.masked.load.v{self.lanes}i16.p0", signature)
            bits = self.builder.call(load, [pointer, ir.Constant(I32, 2), mask, zeros])
        shift = ir.Constant(wide, [16] * self.lanes)
        return self.builder.bitcast(
            self.builder.shl(self.builder.zext(bits, wide), shift), self.vector
        )

    def store_bf16(self, value: Value, pointer: Value, active: int | None = None) -> None:
        """Write a vector, or its first ``active`` lanes, rounded to BF16.

        For targets with BF16 instructions.
        """
        short = self._shorts
        rounded = self.builder.fptrunc(value, ir.VectorType(BF16, self.lanes))
        bits = self.builder.bitcast(rounded, short)
        if active is None or active == self.lanes:
            self.builder.store(bits, pointer, align=2)
            return
        mask = self._mask(active)
        signature = ir.FunctionType(ir.VoidType(), [short, POINTER, I32, mask.type])
        store = self._declared(f"llvm.masked.store.v{self.lanes}i16.p0", signature)
        self.builder.call(store, [bits, pointer, ir.Constant(I32, 2), mask])

    @property
    def _shorts(self) -> ir.Type:
        return ir.VectorType(_I16, self.lanes)

    def dot_pairs(self, a: Value, b: Value, c: Value) -> Value:
        """Return ``c`` plus the dot products of the pairs of ``a`` and ``b``; AVX-512-BF16 only."""
        pairs = ir.VectorType(BF16, 2 * self.lanes)
        signature = ir.FunctionType(self.vector, [self.vector, pairs, pairs])
        function = self._declared(f"llvm.x86.avx512bf16.dpbf16ps.{32 * self.lanes}", signature)
        return self.builder.call(function, [c, *(self.builder.bitcast(x, pairs) for x in (a, b))])

    def opaque(self, pointer: Value) -> Value:
        """Return the same pointer hidden from LLVM, so that it loads from memory again."""
        signature = ir.FunctionType(POINTER, [POINTER])
        return self.builder.asm(signature, "", "=r,0", [pointer], side_effect=False)

    def relu(self, value: Value) -> Value:
        """Return ``max(value, 0)``; NaN stays NaN."""
        negative = self.builder.fcmp_ordered("<", value, self.zero())
        return self.builder.select(negative, self.zero(), value)

    def where_positive(self, value: Value, mask: Value) -> Value:
        """Return ``value`` in lanes where ``mask > 0``, zero elsewhere."""
        positive = self.builder.fcmp_ordered(">", mask, self.zero())
        return self.builder.select(positive, value, self.zero())

    def total(self, value: Value) -> Value:
        """Return the sum of the lanes, added pairwise in a fixed order."""
        width = self.lanes
        while width > 1:
            width //= 2
            high = [width + i if i < width else i for i in range(self.lanes)]
            value = self.builder.fadd(value, self._shuffle(value, value, high))
        return self.builder.extract_element(value, _lane(0))

    def shuffle(self, first: Value, second: Value, lanes: Sequence[int]) -> Value:
        """Return the given lanes of the concatenation of two vectors."""
        return self._shuffle(first, second, lanes)

    def prefetch(self, pointer: Value, for_write: bool = False, cache: int = 1) -> None:
        """Prefetch the cache line at ``pointer`` into the first- or second-level ``cache``."""
        i32 = I32
        signature = ir.FunctionType(ir.VoidType(), [POINTER, i32, i32, i32])
        function = self._declared("llvm.prefetch.p0", signature)
        values = [ir.Constant(i32, v) for v in (int(for_write), 4 - cache, 1)]
        self.builder.call(function, [pointer, *values])

    @contextmanager
    def loop(self, count: Value, carried: Sequence[Value] = ()) -> Iterator[Loop]:
        """Emit a loop around the body of the ``with`` statement, with ``count`` iterations.

        ``carried`` are the values of the first iteration. They and the index become phi nodes,
        so vectors among them stay in registers.
        """
        builder = self.builder
        entry = builder.block
        body, after = (builder.append_basic_block(name) for name in ("body", "after"))
        nonempty = builder.icmp_signed(">", count, integer(0))
        builder.cbranch(nonempty, body, after)
        builder.position_at_end(body)
        index = _phi(builder, integer(0), entry)
        phis = [_phi(builder, value, entry) for value in carried]
        loop = Loop(index, list(phis))
        yield loop
        advanced = builder.add(index, integer(1), flags=["nsw"])
        latch = builder.block
        for phi, value in zip([index, *phis], [advanced, *loop.following], strict=True):
            phi.add_incoming(value, latch)
        builder.cbranch(builder.icmp_signed("<", advanced, count), body, after)
        builder.position_at_end(after)
        loop.values = [
            _join(builder, (first, entry), (last, latch))
            for first, last in zip(carried, loop.following, strict=True)
        ]

    def _multiply_add(self, name: str, kind: ir.Type, operands: tuple[Value, ...]) -> Value:
        function = self._declared(name, ir.FunctionType(kind, [kind] * 3))
        return self.builder.call(function, operands)

    def _shuffle(self, first: Value, second: Value, lanes: Sequence[int]) -> Value:
        picked = ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
        return self.builder.shuffle_vector(first, second, picked)

    def _mask_types(self) -> list[ir.Type]:
        return [I32, ir.VectorType(I1, self.lanes), self.vector]

    def _mask(self, active: int) -> Value:
        bits = [int(lane < active) for lane in range(self.lanes)]
        return ir.Constant(ir.VectorType(I1, self.lanes), bits)

    def _intrinsic(self, name: str, result: ir.Type, arguments: list[ir.Type]) -> ir.Function:
        kind = f".v{self.lanes}f32.p0"
        return self._declared(name + kind, ir.FunctionType(result, arguments))

    def _declared(self, name: str, signature: ir.FunctionType) -> ir.Function:
        declared = self.module.globals.get(name)
        return declared or ir.Function(self.module, signature, name)


def _lane(number: int) -> Value:
    return ir.Constant(I32, number)


def _phi(builder: ir.IRBuilder, first: Value, entry: ir.Block) -> Value:
    phi = builder.phi(first.type)
    phi.add_incoming(first, entry)
    return phi


def _join(
    builder: ir.IRBuilder, skipped: tuple[Value, ir.Block], run: tuple[Value, ir.Block]
) -> Value:
    """Return the value after a loop: the first one if it never ran, else the last one."""
    phi = builder.phi(skipped[0].type)
    phi.add_incoming(*skipped)
    phi.add_incoming(*run)
    return phi
