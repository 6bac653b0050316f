"""One parallel loop for all kernels: runs the tasks of a kernel on all threads.

Numba compiles every loop over ``prange`` to separate functions; a training step needs dozens,
and their compilation was a third of a first start. Here the loop is compiled once, and a kernel
passes it the addresses of its task and of its operands. As with ``prange``, each thread gets an
equal run of consecutive tasks. All threads compute in the floating-point mode of the calling one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import prange, types
from numba.core.cgutils import (
    add_global_variable,
    alloca_once_value,
    gep_inbounds,
    get_null_value,
    get_or_insert_function,
    if_unlikely,
    pack_struct,
)
from numba.core.errors import TypingError
from numba.extending import intrinsic

from dlrmjit_kernels.runtime import thread_pool, unsafe
from dlrmjit_kernels.runtime.compile import jit, parallel_jit
from dlrmjit_kernels.runtime.threads import available_cpus

_I64 = ir.IntType(64)

ALL_THREADS, CALLING_THREAD = False, True
"""Values of the last argument of :func:`run_tasks`: which threads run the tasks."""
PARALLEL_MIN_ELEMENTS = 1 << 14
"""Elements from which adding or copying on all threads pays: waking them takes microseconds."""


thread_pool.check_layer()


@intrinsic  # type: ignore[untyped-decorator]
def _pool_state(typingctx: Any) -> Any:
    """Return the address of the state of the thread pool."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        state = add_global_variable(builder.module, _I64, thread_pool.SYMBOL)
        return builder.ptrtoint(state, _I64)

    return types.int64(), codegen


@intrinsic  # type: ignore[untyped-decorator]
def threads_set(typingctx: Any) -> Any:
    """Return the number of threads set for this thread; kernels that ask Numba are not cached."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(_I64, [])  # as Numba declares it
        function = get_or_insert_function(builder.module, kind, "get_num_threads")
        return builder.call(function, [])

    return types.int64(), codegen


@jit
def _enter_pool(threads: int) -> int:
    """Return how many threads a loop may use, 1 or ``threads``; others may be using the pool."""
    state = _pool_state()
    if threads < 2 or unsafe.load_int64(state + 8 * thread_pool.FORKED):
        return 1
    used = unsafe.fetch_add(state + 8 * thread_pool.IN_USE, threads)
    if used == 0 or used + threads <= unsafe.load_int64(state + 8 * thread_pool.LIMIT):
        return threads
    unsafe.fetch_add(state + 8 * thread_pool.IN_USE, -threads)
    return 1


@jit
def _leave_pool(threads: int) -> None:
    unsafe.fetch_add(_pool_state() + 8 * thread_pool.IN_USE, -threads)


@parallel_jit
def _loop(task: int, operands: int, count: int, serial: bool) -> None:
    threads = 1 if serial or count < 2 else _enter_pool(threads_set())
    if threads < 2:
        for i in range(count):
            unsafe.call(task, (i, operands))
    else:
        mode = unsafe.float_mode()
        for thread in prange(threads):
            unsafe.set_float_mode(mode)
            for i in range(thread * count // threads, (thread + 1) * count // threads):
                unsafe.call(task, (i, operands))
        _leave_pool(threads)


def _start_threads() -> None:
    """Load the threading layer, whose symbols parallel loops call."""
    thread_pool.start(available_cpus())


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
    loop = compiled(_loop, (types.int64, types.int64, types.int64, types.boolean))
    called = compiled(task.dispatcher, kinds)
    if called.signature.return_type != types.none:
        raise TypingError(f"a task must return nothing, not {called.signature.return_type}")

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        context.active_code_library.add_linking_library(called.library)
        context.active_code_library.add_linking_library(loop.library)
        # Numba records this with a parallel loop it compiles, but not with one from the cache.
        context.active_code_library._reload_init.add(_start_threads)
        stored = borrowed(context, builder, passed, values[2])
        frame = alloca_once_value(builder, pack_struct(builder, [stored, _I64(0)]))
        entry = _entry(context, builder.module, called, frame.type)
        addresses = (builder.ptrtoint(entry, _I64), builder.ptrtoint(frame, _I64))
        arguments = (*addresses, values[1], values[3])
        context.call_internal(builder, loop.fndesc, loop.signature, arguments)
        failed = builder.load(gep_inbounds(builder, frame, 0, 1))
        with if_unlikely(builder, builder.icmp_unsigned("!=", failed, _I64(0))):
            message = "a task of a kernel could not allocate memory for its scratch"
            context.call_conv.return_user_exc(builder, MemoryError, (message,))
        return context.get_dummy_value()

    return types.none(task, types.int64, passed, types.boolean), codegen


def compiled(dispatcher: Any, kinds: tuple[Any, ...]) -> Any:
    """Return a kernel or task compiled for operands of these types."""
    _start_threads()
    dispatcher.compile(kinds)
    return dispatcher.overloads[kinds]


def borrowed(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Return the value without reference counts of its arrays, for which threads would contend."""
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        for owner in ("meminfo", "parent"):
            setattr(array, owner, get_null_value(getattr(array, owner).type))
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        for i, part in enumerate(kind):
            item = borrowed(context, builder, part, builder.extract_value(value, i))
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
