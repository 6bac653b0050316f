"""Hands out tasks to threads one by one, so that uneven tasks still keep every thread busy.

Which thread runs a task must never change a result: tasks write to disjoint places, and what
they are does not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from dlrmjit_kernels.runtime.compile import jit


@intrinsic  # type: ignore[untyped-decorator]
def take_task(typingctx: Any, counter: Any) -> Any:
    """Number of the next task: atomically counts up the int64 at address ``counter``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i64 = ir.IntType(64)
        pointer = builder.inttoptr(args[0], i64.as_pointer())
        return builder.atomic_rmw("add", pointer, i64(1), "monotonic")

    return types.int64(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typingctx: Any, address: Any) -> Any:
    """Start loading the cache line at ``address`` into the second cache."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32, pointer = ir.IntType(32), ir.PointerType()
        kind = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
        function = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [builder.inttoptr(args[0], pointer), i32(0), i32(2), i32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@jit
def prefetch_row(address: int, nbytes: int) -> None:
    """Start loading the cache lines of a row."""
    for line in range(0, nbytes, 64):
        prefetch(address + line)
