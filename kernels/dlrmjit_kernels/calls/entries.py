"""Functions of two addresses through which compiled code calls any kernel with stored operands."""

from __future__ import annotations

import inspect
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import unpack_tuple
from numba.core.errors import TypingError
from numba.extending import intrinsic

from dlrmjit_kernels.runtime.parallel import borrowed, compiled

FRAME_BYTES = 1024
"""Bytes of the memory in which the operands of a kernel are stored."""
_I64 = ir.IntType(64)


@intrinsic  # type: ignore[untyped-decorator]
def store_call(typingctx: Any, kernel: Any, frame: Any, operands: Any) -> Any:
    """Store ``operands`` at address ``frame``; return the address of what calls ``kernel`` so.

    That is a function of two int64, the frame and the address of scratch memory, which is the
    last operand of a kernel whose last parameter is called ``scratch``. It returns 0, or 1 if the
    kernel raised an error. The frame has references to arrays that are not counted: the arrays
    must live.
    """
    if not isinstance(kernel, types.Dispatcher) or not isinstance(operands, types.BaseTuple):
        return None
    passed = types.Tuple([types.unliteral(kind) for kind in operands])
    more = [types.int64] * _takes_scratch(kernel.dispatcher)
    called = compiled(kernel.dispatcher, (*passed, *more))

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        context.active_code_library.add_linking_library(called.library)
        stored = _store(context, builder, passed, *values[1:])
        _check_size(context, stored.type)
        entry = _entry(context, builder.module, called, stored.type)
        return builder.ptrtoint(entry, _I64)

    return types.int64(kernel, types.int64, passed), codegen


@intrinsic  # type: ignore[untyped-decorator]
def store_operands(typingctx: Any, frame: Any, operands: Any) -> Any:
    """Replace the first operands of a frame by ``operands`` of the same types, which must live."""
    if not isinstance(operands, types.BaseTuple):
        return None

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _store(context, builder, signature.args[1], *values)
        return context.get_dummy_value()

    return types.none(types.int64, operands), codegen


def _store(context: Any, builder: Any, kind: Any, frame: Any, operands: Any) -> Any:
    stored = borrowed(context, builder, kind, operands)
    builder.store(stored, builder.inttoptr(frame, stored.type.as_pointer()))
    return stored


def _takes_scratch(kernel: Any) -> bool:
    return list(inspect.signature(kernel.py_func).parameters)[-1] == "scratch"


def _check_size(context: Any, kind: Any) -> None:
    size = context.get_abi_sizeof(kind)
    if size > FRAME_BYTES:
        raise TypingError(f"operands of {size} bytes exceed the {FRAME_BYTES} of a frame")


def _entry(context: Any, module: Any, kernel: Any, stored: Any) -> Any:
    name = module.get_unique_name(f"call.{kernel.fndesc.llvm_func_name}")
    function = ir.Function(module, ir.FunctionType(_I64, [_I64, _I64]), name)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    frame, scratch = function.args
    operands = builder.load(builder.inttoptr(frame, stored.as_pointer()))
    each = [*unpack_tuple(builder, operands), scratch][: len(kernel.signature.args)]
    status, _ = context.call_internal_no_propagate(builder, kernel.fndesc, kernel.signature, each)
    builder.ret(builder.zext(status.is_error, _I64))
    return function
