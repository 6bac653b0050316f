"""One parallel loop for all kernels: runs the tasks of a kernel on all threads.

Numba compiles every loop over ``prange`` to separate functions; a training step needs dozens,
and their compilation was a third of a first start. Here the loop is compiled once, and a kernel
passes it the addresses of its task and of its operands. As with ``prange``, each thread gets an
equal run of consecutive tasks.
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
def _loop(task: int, operands: int, count: int, serial: bool) -> None:
    if serial or count < 2:
        for i in range(count):
            unsafe.call(task, (i, operands))
    else:
        for i in prange(count):
            unsafe.call(task, (i, operands))


def _start_threads() -> None:
    """Load the threading layer, whose symbols parallel loops call."""
    get_num_threads()


@intrinsic  # type: ignore[untyped-decorator]
def run_tasks(typingctx: Any, task: Any, count: Any, operands: Any, serial: Any) -> Any:
    """Call ``task(i, *operands)`` for every ``i`` below ``count``.

    ``task`` is compiled by :func:`.compile.task_jit` and returns nothing. It may fail only for
    lack of memory, which is raised here as MemoryError. ``operands`` is a tuple; the task must
    not keep references to its arrays. ``serial`` is :data:`ALL_THREADS`, :data:`CALLING_THREAD`
    or a boolean computed at run time; a single task runs on the calling thread anyway.
    """
    if not isinstance(task, types.Dispatcher) or not isinstance(operands, types.BaseTuple):
        return None
    kinds = (types.int64, *(types.unliteral(kind) for kind in operands))
    passed = types.Tuple(kinds[1:])
    loop = _compiled(_loop, (types.int64, types.int64, types.int64, types.boolean))
    compiled = _compiled(task.dispatcher, kinds)
    if compiled.signature.return_type != types.none:
        raise TypingError(f"a task must return nothing, not {compiled.signature.return_type}")

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        context.active_code_library.add_linking_library(compiled.library)
        context.active_code_library.add_linking_library(loop.library)
        # Numba records this with a parallel loop it compiles, but not with one from the cache.
        context.active_code_library._reload_init.add(_start_threads)
        borrowed = _borrowed(context, builder, passed, values[2])
        frame = alloca_once_value(builder, pack_struct(builder, [borrowed, _I64(0)]))
        entry = _entry(context, builder.module, compiled, frame.type)
        addresses = (builder.ptrtoint(entry, _I64), builder.ptrtoint(frame, _I64))
        arguments = (*addresses, values[1], values[3])
        context.call_internal(builder, loop.fndesc, loop.signature, arguments)
        failed = builder.load(gep_inbounds(builder, frame, 0, 1))
        with if_unlikely(builder, builder.icmp_unsigned("!=", failed, _I64(0))):
            message = "a task of a kernel could not allocate memory for its scratch"
            context.call_conv.return_user_exc(builder, MemoryError, (message,))
        return context.get_dummy_value()

    return types.none(task, types.int64, passed, types.boolean), codegen


def _compiled(dispatcher: Any, kinds: tuple[Any, ...]) -> Any:
    dispatcher.compile(kinds)
    return dispatcher.overloads[kinds]


def _borrowed(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Return the value without reference counts of its arrays, for which threads would contend."""
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        for owner in ("meminfo", "parent"):
            setattr(array, owner, get_null_value(getattr(array, owner).type))
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        for i, part in enumerate(kind):
            item = _borrowed(context, builder, part, builder.extract_value(value, i))
            value = builder.insert_value(value, item, i)
    return value


def _entry(context: Any, module: Any, task: Any, frame: Any) -> Any:
    """Define a function of two integers: a task's number and the address of a ``frame``.

    The frame has the operands and a flag, which is set if a task fails. Several tasks may fail
    at once, because all write the same value.
    """
    kind = ir.FunctionType(ir.VoidType(), [_I64, _I64])
    name = module.get_unique_name(f"entry.{task.fndesc.llvm_func_name}")
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    number, address = function.args
    pointer = builder.inttoptr(address, frame)
    operands = builder.load(gep_inbounds(builder, pointer, 0, 0))
    each = [builder.extract_value(operands, i) for i in range(len(operands.type.elements))]
    status, _ = context.call_internal_no_propagate(
        builder, task.fndesc, task.signature, [number, *each]
    )
    with if_unlikely(builder, status.is_error):
        builder.store(_I64(1), gep_inbounds(builder, pointer, 0, 1))
    builder.ret_void()
    return function
