"""Raw addresses inside Numba kernels: arrays over them, prefetch, an atomic counter.

Nothing here checks anything: an address must stay alive and in range while a kernel runs, which
the objects that hand out addresses (tables, buffers) see to.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic


@intrinsic  # type: ignore[untyped-decorator]
def float32_pointer(typingctx: Any, address: Any) -> Any:
    """``address`` (int64) as a pointer to float32, for ``numba.carray``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.int64), codegen


def _prefetch_codegen(write: int) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
        function = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        where = builder.inttoptr(args[0], pointer)
        builder.call(function, [where, i32(write), i32(3), i32(1)])
        return context.get_dummy_value()

    return codegen


@intrinsic  # type: ignore[untyped-decorator]
def prefetch_read(typingctx: Any, address: Any) -> Any:
    """Start loading the cache line at ``address`` (int64)."""
    return types.void(types.int64), _prefetch_codegen(0)


@intrinsic  # type: ignore[untyped-decorator]
def prefetch_write(typingctx: Any, address: Any) -> Any:
    """Start loading the cache line at ``address`` (int64) for a write."""
    return types.void(types.int64), _prefetch_codegen(1)


@intrinsic  # type: ignore[untyped-decorator]
def fetch_add(typingctx: Any, address: Any) -> Any:
    """Atomically add 1 to the int64 at ``address``; its value before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i64 = ir.IntType(64)
        pointer = builder.inttoptr(args[0], i64.as_pointer())
        return builder.atomic_rmw("add", pointer, i64(1), "monotonic")

    return types.int64(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def invoke(typingctx: Any, function: Any, arguments: Any) -> Any:
    """Call the micro-kernel at address ``function`` with a tuple of int64 arguments."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i64 = ir.IntType(64)
        values = [builder.extract_value(args[1], i) for i in range(len(arguments))]
        kind = ir.FunctionType(ir.VoidType(), [i64] * len(values))
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(types.int64, types.UniTuple(types.int64, len(arguments))), codegen
