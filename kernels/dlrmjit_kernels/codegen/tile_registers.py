"""Emits AMX: eight registers of 16 rows of 64 bytes each, and products of two of them.

A configuration says how many rows and bytes of each register are in use; to configure is to clear
them all. A program has the operating system's permission first
(:mod:`dlrmjit_kernels.runtime.amx`). Intel's manual, volume 1, chapter 18.
"""

from __future__ import annotations

from collections.abc import Mapping

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import I64, POINTER, Emitter, Value, integer

TILE_ROWS = 16
TILE_PAIRS = 16
"""BF16 pairs, or float32 numbers, in a row of a register."""

_I8 = ir.IntType(8)
_CONFIGURATION = 64  # bytes
_FIRST_WIDTH, _FIRST_HEIGHT = 16, 48  # bytes from its start: two of width, one of height for each


class TileRegisters:
    """The tile registers of a function that is being emitted, by number."""

    def __init__(self, emit: Emitter) -> None:
        self._emit = emit

    def configure(self, shapes: Mapping[int, tuple[int, int]]) -> None:
        """Use these rows and float32 columns of registers, all of which become zero."""
        content = bytearray(_CONFIGURATION)
        content[0] = 1  # the palette of eight registers
        for register, (rows, cols) in shapes.items():
            at = _FIRST_WIDTH + 2 * register
            content[at : at + 2] = (4 * cols).to_bytes(2, "little")
            content[_FIRST_HEIGHT + register] = rows
        memory = self.memory(_CONFIGURATION // 4)
        for start in range(0, _CONFIGURATION, 8):
            word = int.from_bytes(content[start : start + 8], "little")
            pointer = self._emit.offset(memory, start, size=1)
            self._emit.builder.store(integer(word), pointer, align=8)
        self._call("ldtilecfg", memory)

    def memory(self, floats: int) -> Value:
        """Return the address of ``floats`` elements on the stack, at a cache line."""
        kind = ir.ArrayType(ir.FloatType(), floats)
        builder = self._emit.builder
        with builder.goto_entry_block():
            memory = builder.alloca(kind)
            memory.align = 64
            return builder.inttoptr(builder.ptrtoint(memory, I64), POINTER)  # of any element

    def load(self, register: int, pointer: Value, stride: Value | int) -> None:
        """Load a register from rows that are ``stride`` elements apart."""
        self._call("tileloadd64", register, pointer, self._bytes(stride))

    def store(self, register: int, pointer: Value, stride: Value | int) -> None:
        """Write a register to rows that are ``stride`` elements apart."""
        self._call("tilestored64", register, pointer, self._bytes(stride))

    def dot_pairs(self, total: int, a: int, b: int) -> None:
        """Add the product of ``a``, pairs along its rows, and ``b``, a row of pairs each."""
        self._call("tdpbf16ps", total, a, b)

    def release(self) -> None:
        """Leave no register in use, so that threads are switched as fast as without them."""
        self._call("tilerelease")

    def _bytes(self, elements: Value | int) -> Value:
        if isinstance(elements, int):
            return integer(4 * elements)
        return self._emit.builder.shl(elements, integer(2))

    def _call(self, name: str, *arguments: Value | int) -> None:
        values = [ir.Constant(_I8, x) if isinstance(x, int) else x for x in arguments]
        kinds = [
            _I8 if isinstance(x, int) else POINTER if x.type != I64 else I64 for x in arguments
        ]
        signature = ir.FunctionType(ir.VoidType(), kinds)
        module, symbol = self._emit.module, f"llvm.x86.{name}"
        function = module.globals.get(symbol) or ir.Function(module, signature, symbol)
        self._emit.builder.call(function, values)
