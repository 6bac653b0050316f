"""Runs the tasks of a kernel on all threads: one parallel loop, which all kernels share.

Numba turns every loop over ``prange`` into functions of its own, each typed, lowered, optimised
and translated again; a step needs dozens, and that was a third of a first start. Here the loop
is typed and lowered once, and a kernel hands it the address of its task and of its operands.
Tasks are dealt out evenly in runs, as by ``prange``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import get_num_threads, prange, types
from numba.core.cgutils import (
    alloca_once_value,
    gep_inbounds,
    get_null_value,
    if_unlikely,
    pack_struct,
)
from numba.core.errors import TypingError
from numba.extending import intrinsic

from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import parallel_jit

_I64 = ir.IntType(64)

ALL_THREADS, CALLING_THREAD = False, True
"""Values of the last argument of :func:`run_tasks`: which threads run the tasks."""
PARALLEL_MIN_ELEMENTS = 1 << 14
"""Elements from which adding or copying on all threads pays: waking them takes microseconds."""


@parallel_jit
def _deal(task: int, operands: int, count: int, serial: bool) -> None:
    if serial or count < 2:
        for i in range(count):
            unsafe.call(task, (i, operands))
    else:
        for i in prange(count):
            unsafe.call(task, (i, operands))


def _start_threads() -> None:
    """Make what parallel loops call known to the loader of compiled code."""
    get_num_threads()


@intrinsic  # type: ignore[untyped-decorator]
def run_tasks(typingctx: Any, task: Any, count: Any, operands: Any, serial: Any) -> Any:
    """Call ``task(i, *operands)`` for every ``i`` below ``count``.

    ``task`` is compiled by :func:`.compile.task_jit`, returns nothing and fails
    only for want of memory, as MemoryError here; ``operands`` are a tuple, whose arrays it must
    not keep. All threads take part unless the boolean ``serial``, or there is one task only.
    """
    if not isinstance(task, types.Dispatcher) or not isinstance(operands, types.BaseTuple):
        return None
    kinds = (types.int64, *(types.unliteral(kind) for kind in operands))
    passed = types.Tuple(kinds[1:])
    deal = _compiled(_deal, (types.int64, types.int64, types.int64, types.boolean))
    own = _compiled(task.dispatcher, kinds)
    if own.signature.return_type != types.none:
        raise TypingError(f"a task returns nothing, not {own.signature.return_type}")

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        context.active_code_library.add_linking_library(own.library)
        context.active_code_library.add_linking_library(deal.library)
        # A loop that came from the cache does not pass this on, and kernels are cached too.
        context.active_code_library._reload_init.add(_start_threads)
        borrowed = _borrowed(context, builder, passed, values[2])
        place = alloca_once_value(builder, pack_struct(builder, [borrowed, _I64(0)]))
        entry = _entry(context, builder.module, own, place.type)
        at = (builder.ptrtoint(entry, _I64), builder.ptrtoint(place, _I64), values[1], values[3])
        context.call_internal(builder, deal.fndesc, deal.signature, at)
        failed = builder.load(gep_inbounds(builder, place, 0, 1))
        with if_unlikely(builder, builder.icmp_unsigned("!=", failed, _I64(0))):
            message = "a task of a kernel found no memory for its scratch"
            context.call_conv.return_user_exc(builder, MemoryError, (message,))
        return context.get_dummy_value()

    return types.none(task, types.int64, passed, types.boolean), codegen


def _compiled(dispatcher: Any, kinds: tuple[Any, ...]) -> Any:
    dispatcher.compile(kinds)
    return dispatcher.overloads[kinds]


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


def _entry(context: Any, module: Any, task: Any, place: Any) -> Any:
    """A function of two integers: a task's number, and where its operands and a flag lie.

    The flag is set if the task fails; tasks may do so at once, for all write the same.
    """
    kind = ir.FunctionType(ir.VoidType(), [_I64, _I64])
    name = module.get_unique_name(f"entry.{task.fndesc.llvm_func_name}")
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    number, address = function.args
    at = builder.inttoptr(address, place)
    operands = builder.load(gep_inbounds(builder, at, 0, 0))
    each = [builder.extract_value(operands, i) for i in range(len(operands.type.elements))]
    status, _ = context.call_internal_no_propagate(
        builder, task.fndesc, task.signature, [number, *each]
    )
    with if_unlikely(builder, status.is_error):
        builder.store(_I64(1), gep_inbounds(builder, at, 0, 1))
    builder.ret_void()
    return function
