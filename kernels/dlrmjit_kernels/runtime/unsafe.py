"""Operations of compiled loops on raw addresses: calls, loads, stores, lifetimes, a task counter.

Nothing is checked here: the caller must have checked every address and stride.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import (
    alloca_once,
    alloca_once_value,
    get_or_insert_function,
    raw_memcpy,
    unpack_tuple,
)
from numba.extending import intrinsic

from dlrmjit_kernels.runtime.compile import jit

_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_POINTER = ir.PointerType()
_F32 = ir.FloatType()
_CACHE_LINE = 64  # bytes


def _is_arm() -> bool:
    return platform.machine().lower() in ("aarch64", "arm64")


FLUSHED = 1 << 24 if _is_arm() else (1 << 15) | (1 << 6)
"""Bits of a floating-point mode in which denormals are zero: FZ, or FTZ and DAZ."""


def _pointer(builder: Any, address: Any, element: Any) -> Any:
    return builder.inttoptr(address, element.as_pointer())


@intrinsic  # type: ignore[untyped-decorator]
def call(typingctx: Any, address: Any, arguments: Any) -> Any:
    """Call the function at ``address``, which returns nothing, with a tuple of 64-bit integers.

    Neither the address nor the number of arguments is checked.
    """
    if not isinstance(arguments, types.BaseTuple):
        return None
    wide = types.UniTuple(types.int64, len(arguments))

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        function, packed = values
        arguments = [builder.extract_value(packed, i) for i in range(len(wide))]
        kind = ir.FunctionType(ir.VoidType(), [_I64] * len(wide))
        builder.call(_pointer(builder, function, kind), arguments)
        return context.get_dummy_value()

    return types.none(types.int64, wide), codegen


@intrinsic  # type: ignore[untyped-decorator]
def call_checked(typingctx: Any, address: Any, arguments: Any) -> Any:
    """Call the function at ``address`` as :func:`call` does; return the int64 that it returns."""
    if not isinstance(arguments, types.BaseTuple):
        return None
    wide = types.UniTuple(types.int64, len(arguments))

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(_I64, [_I64] * len(wide))
        arguments = unpack_tuple(builder, values[1])
        return builder.call(_pointer(builder, values[0], kind), arguments)

    return types.int64(types.int64, wide), codegen


@intrinsic  # type: ignore[untyped-decorator]
def keep_alive(typingctx: Any, array: Any) -> Any:
    """Do nothing, so that the memory of a local ``array`` is not freed before this call.

    Numba frees an array after the last use of its name, while addresses taken from it may still
    be in use: where a function takes such an address, it calls this after the last use of that.
    """

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return context.get_dummy_value()

    return types.none(array), codegen


@intrinsic  # type: ignore[untyped-decorator]
def load(typingctx: Any, address: Any) -> Any:
    """Return the float32 at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_pointer(builder, values[0], _F32))

    return types.float32(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def load_int64(typingctx: Any, address: Any) -> Any:
    """Return the int64 at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_pointer(builder, values[0], _I64))

    return types.int64(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def load_bytes(typingctx: Any, address: Any) -> Any:
    """Return the 8 bytes at any ``address`` as a uint64, the first in its low bits."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_pointer(builder, values[0], _I64), align=1)

    return types.uint64(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def trailing_zeros(typingctx: Any, value: Any) -> Any:
    """Return the number of zero bits below the lowest one of a uint64 that is not 0."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.IntType(1)(1))

    return types.uint64(types.uint64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def store_int64(typingctx: Any, address: Any, value: Any) -> Any:
    """Write an int64 to ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[1], _pointer(builder, values[0], _I64))
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def copy(typingctx: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy ``count`` float32 from address ``source`` to ``target``; they must not overlap."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, source = (_pointer(builder, value, _F32) for value in values[:2])
        raw_memcpy(builder, target, source, values[2], 4)
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def store(typingctx: Any, address: Any, value: Any) -> Any:
    """Write a float32 to ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[1], _pointer(builder, values[0], _F32))
        return context.get_dummy_value()

    return types.none(types.int64, types.float32), codegen


@intrinsic  # type: ignore[untyped-decorator]
def fetch_add(typingctx: Any, address: Any, value: Any) -> Any:
    """Return the int64 at ``address`` and add ``value`` to it, atomically and in one order."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = _pointer(builder, values[0], _I64)
        return builder.atomic_rmw("add", pointer, values[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def float_mode(typingctx: Any) -> Any:
    """Return the floating-point mode of this thread: MXCSR on x86, FPCR on arm64."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if _is_arm():
            read = get_or_insert_function(
                builder.module, ir.FunctionType(_I64, []), "llvm.aarch64.get.fpcr"
            )
            return builder.call(read, [])
        saved = alloca_once(builder, _I32)
        builder.call(_on_mxcsr(builder, "stmxcsr"), [builder.bitcast(saved, _POINTER)])
        return builder.zext(builder.load(saved), _I64)

    return types.int64(), codegen


@intrinsic  # type: ignore[untyped-decorator]
def set_float_mode(typingctx: Any, mode: Any) -> Any:
    """Set the floating-point mode of this thread to a value of :func:`float_mode`."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if _is_arm():
            kind = ir.FunctionType(ir.VoidType(), [_I64])
            write = get_or_insert_function(builder.module, kind, "llvm.aarch64.set.fpcr")
            builder.call(write, [values[0]])
        else:
            saved = alloca_once_value(builder, builder.trunc(values[0], _I32))
            builder.call(_on_mxcsr(builder, "ldmxcsr"), [builder.bitcast(saved, _POINTER)])
        return context.get_dummy_value()

    return types.none(types.int64), codegen


def _on_mxcsr(builder: Any, instruction: str) -> Any:
    kind = ir.FunctionType(ir.VoidType(), [_POINTER])
    return get_or_insert_function(builder.module, kind, f"llvm.x86.sse.{instruction}")


@intrinsic  # type: ignore[untyped-decorator]
def next_task(typingctx: Any, counter: Any) -> Any:
    """Return the int64 at address ``counter`` and add one to it, atomically.

    Threads that share a counter divide tasks of uneven length among themselves. Which thread
    runs a task must not change a result: tasks write to disjoint memory, and what a task does
    must not depend on the number of threads.
    """

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.atomic_rmw("add", _pointer(builder, values[0], _I64), _I64(1), "monotonic")

    return types.int64(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typingctx: Any, address: Any) -> Any:
    """Start loading the cache line at ``address`` into the second-level cache."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        i32, pointer = ir.IntType(32), ir.PointerType()
        kind = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
        function = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # Read access (0), locality 2 (the second-level cache), data cache (1).
        builder.call(function, [builder.inttoptr(values[0], pointer), i32(0), i32(2), i32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@jit
def prefetch_row(address: int, nbytes: int) -> None:
    """Start loading the cache lines of a row of ``nbytes`` bytes."""
    for offset in range(0, nbytes, _CACHE_LINE):
        prefetch(address + offset)
