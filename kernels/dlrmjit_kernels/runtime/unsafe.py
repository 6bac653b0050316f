"""Raw addresses inside compiled loops: calling generated kernels, reading and writing floats.

There is no safety net here: every address and stride must have been checked before.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import raw_memcpy
from numba.extending import intrinsic

_I64 = ir.IntType(64)
_F32 = ir.FloatType()


def _pointer(builder: Any, address: Any, element: Any) -> Any:
    return builder.inttoptr(address, element.as_pointer())


@intrinsic  # type: ignore[untyped-decorator]
def call(typingctx: Any, address: Any, arguments: Any) -> Any:
    """Call the function at ``address`` with a tuple of 64-bit integers; it returns nothing.

    Warning: neither the address nor the number of arguments is checked.
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
def load(typingctx: Any, address: Any) -> Any:
    """The float32 at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_pointer(builder, values[0], _F32))

    return types.float32(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def load_integer(typingctx: Any, address: Any) -> Any:
    """The 64-bit integer at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_pointer(builder, values[0], _I64))

    return types.int64(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def copy(typingctx: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy ``count`` float32 between addresses of places that do not overlap."""

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
