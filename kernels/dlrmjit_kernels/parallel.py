"""Runs the tasks of a kernel on all threads: one compiled parallel loop, which all kernels share.

Numba turns every loop over ``prange`` into functions of its own, which it types, optimises and
translates again and again; a step needs dozens, and that was most of a first start. Here a kernel
hands over the address of its task and of its operands. Tasks are dealt out evenly in runs, as by
``prange``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import prange, types
from numba.core.cgutils import alloca_once_value, get_null_value
from numba.extending import intrinsic

from dlrmjit_kernels import unsafe
from dlrmjit_kernels.compile import parallel_jit

_I64 = ir.IntType(64)


@parallel_jit
def _deal(task: int, operands: int, count: int, alone: bool) -> None:
    if alone or count < 2:
        for i in range(count):
            unsafe.call(task, (i, operands))
    else:
        for i in prange(count):
            unsafe.call(task, (i, operands))


@intrinsic  # type: ignore[untyped-decorator]
def run_tasks(typingctx: Any, task: Any, count: Any, operands: Any, alone: Any) -> Any:
    """Call ``task(i, *operands)`` for every ``i`` below ``count``.

    ``task`` is compiled by :func:`~dlrmjit_kernels.compile.task_jit` and returns nothing;
    ``operands`` are a tuple. All threads take part unless ``alone``, or there is one task only.
    """
    if not isinstance(task, types.Dispatcher) or not isinstance(operands, types.BaseTuple):
        return None
    kinds = (types.int64, *(types.unliteral(kind) for kind in operands))
    typingctx.resolve_function_type(task, kinds, {})
    deal = _compiled(_deal, (types.int64, types.int64, types.int64, types.boolean))
    own = _compiled(task.dispatcher, kinds)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = alloca_once_value(builder, _borrowed(context, builder, passed, values[2]))
        entry = _entry(context, builder.module, own, values[2].type)
        at = (builder.ptrtoint(entry, _I64), builder.ptrtoint(place, _I64), values[1], values[3])
        _link(context, deal)
        context.call_internal(builder, deal.fndesc, deal.signature, at)
        return context.get_dummy_value()

    passed = types.Tuple(kinds[1:])
    return types.none(task, types.int64, passed, types.boolean), codegen


def _compiled(dispatcher: Any, kinds: tuple[Any, ...]) -> Any:
    dispatcher.compile(kinds)
    return dispatcher.overloads[kinds]


def _link(context: Any, compiled: Any) -> None:
    context.active_code_library.add_linking_library(compiled.library)


def _borrowed(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """The value with arrays that nobody counts: threads would quarrel about the counters."""
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        for owner in ("meminfo", "parent"):
            setattr(array, owner, get_null_value(getattr(array, owner).type))
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        for i, part in enumerate(kind):
            own = _borrowed(context, builder, part, builder.extract_value(value, i))
            value = builder.insert_value(value, own, i)
    return value


def _entry(context: Any, module: Any, task: Any, packed: Any) -> Any:
    """A function of two integers, a task's number and the address of its operands."""
    _link(context, task)
    kind = ir.FunctionType(ir.VoidType(), [_I64, _I64])
    name = module.get_unique_name(f"entry.{task.fndesc.llvm_func_name}")
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    number, address = function.args
    operands = builder.load(builder.inttoptr(address, packed.as_pointer()))
    each = [builder.extract_value(operands, i) for i in range(len(packed.elements))]
    context.call_internal_no_propagate(builder, task.fndesc, task.signature, [number, *each])
    builder.ret_void()
    return function
