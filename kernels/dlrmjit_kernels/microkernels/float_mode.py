"""Sets how the calling thread treats denormals, in a control register Python cannot reach.

An operation on a denormal number costs an x86 processor about a hundred cycles, and vanishing
gradients have many, so kernels compute without. The mode is a property of a thread: threads of the
pool take over that of the calling thread, which also runs the user's code and is restored
afterwards.

Contract: ``flush`` stores the current mode in the 64-bit integer at ``saved``, then makes results
and operands below the smallest normal number count as zero; ``restore`` sets the mode at
``saved``. On x86 the mode is MXCSR (bits FTZ and DAZ), on arm64 FPCR (bit FZ).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import I32, I64, POINTER, Emitter, Value
from dlrmjit_kernels.codegen.engine import address
from dlrmjit_kernels.runtime.target import Target, current_target

_FTZ_DAZ = (1 << 15) | (1 << 6)
_FZ = 1 << 24


@dataclass(frozen=True)
class FloatMode:
    """The kernel that starts flushing denormals, or the one that restores the mode."""

    flush: bool

    @property
    def symbol(self) -> str:
        """Name of the function."""
        return "denormals_flush" if self.flush else "denormals_restore"

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        emit = Emitter(module, self.symbol, {"saved": POINTER}, target.lanes)
        mode = _Fpcr(emit) if target.triple.startswith("aarch64") else _Mxcsr(emit)
        if self.flush:
            mode.save(emit["saved"])
            mode.set(emit.builder.or_(mode.load(emit["saved"]), mode.flags))
        else:
            mode.set(mode.load(emit["saved"]))
        emit.finish()


class _Mxcsr:
    """The register of SSE and its successors, read and written through memory only."""

    flags = ir.Constant(I32, _FTZ_DAZ)

    def __init__(self, emit: Emitter) -> None:
        self._builder, self._module = emit.builder, emit.module
        self._kind = ir.FunctionType(ir.VoidType(), [POINTER])
        self._scratch = self._builder.alloca(I32)

    def save(self, address: Value) -> None:
        store = ir.Function(self._module, self._kind, "llvm.x86.sse.stmxcsr")
        self._builder.call(store, [address])

    def load(self, address: Value) -> Value:
        return self._builder.load(address, typ=I32)

    def set(self, value: Value) -> None:
        self._builder.store(value, self._scratch)
        load = ir.Function(self._module, self._kind, "llvm.x86.sse.ldmxcsr")
        self._builder.call(load, [self._scratch])


class _Fpcr:
    """The register of arm64."""

    flags = ir.Constant(I64, _FZ)

    def __init__(self, emit: Emitter) -> None:
        self._builder, self._module = emit.builder, emit.module

    def save(self, address: Value) -> None:
        kind = ir.FunctionType(I64, [])
        read = ir.Function(self._module, kind, "llvm.aarch64.get.fpcr")
        self._builder.store(self._builder.call(read, []), address)

    def load(self, address: Value) -> Value:
        return self._builder.load(address, typ=I64)

    def set(self, value: Value) -> None:
        kind = ir.FunctionType(ir.VoidType(), [I64])
        write = ir.Function(self._module, kind, "llvm.aarch64.set.fpcr")
        self._builder.call(write, [value])


_MODE = ctypes.PYFUNCTYPE(None, ctypes.c_int64)  # it takes too little time to let others run


@functools.lru_cache(maxsize=2)
def _setter(flush: bool) -> Callable[[int], None]:
    return _MODE(address(FloatMode(flush), current_target()))


class _Flushed:
    """The block of :func:`denormals_flushed`."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = ctypes.c_int64()
        _setter(True)(ctypes.addressof(self._before))

    def __exit__(self, *error: object) -> None:
        _setter(False)(ctypes.addressof(self._before))


def denormals_flushed() -> AbstractContextManager[None]:
    """Treat operands and results of float operations below 2**-126 as zero in this block.

    This holds for the calling thread and for the kernels it calls, on all their threads.
    """
    return _Flushed()
