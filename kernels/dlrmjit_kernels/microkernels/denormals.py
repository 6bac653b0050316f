"""Treats denormal numbers as zero while kernels compute.

An operation on one costs an x86 processor about a hundred cycles, and vanishing gradients have
many. The mode is a property of a thread: threads of the pool, which run only kernels, stay in
it; the mode of the calling thread, which also runs the user's code, is restored.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen.engine import address
from dlrmjit_kernels.microkernels.float_mode import FloatMode
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.target import current_target
from dlrmjit_kernels.runtime.threads import get_threads
from dlrmjit_kernels.runtime.unsafe import call

_MODE = ctypes.CFUNCTYPE(None, ctypes.c_int64)


class _Caller(threading.local):
    """Number of threads in the calling thread's pool that flush denormals already."""

    threads = 0


_caller = _Caller()


def _apply(flush: bool, mode: NDArray[np.int64]) -> None:
    _MODE(address(FloatMode(flush), current_target()))(mode.ctypes.data)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Treat operands and results of float operations below 2**-126 as zero in this block.

    This holds for the calling thread, whose mode is restored afterwards, and for the threads of
    the kernels it calls, whose mode stays.
    """
    before = np.zeros(1, np.int64)
    _apply(True, before)
    try:
        _flush_pool(get_threads())
        yield
    finally:
        _apply(False, before)


def _flush_pool(threads: int) -> None:
    """Set the mode of the pool's threads, once for each size of the pool."""
    if _caller.threads != threads:
        flush = address(FloatMode(flush=True), current_target())
        # Two tasks at least: a single one would run on the calling thread, not in the pool.
        _flush_all(flush, np.zeros(max(2, threads), np.int64))
        _caller.threads = threads


@jit
def _flush_all(flush: int, modes: NDArray[np.int64]) -> None:
    """Let each thread of the pool set its mode."""
    run_tasks(_flush, len(modes), (flush, modes), ALL_THREADS)


@task_jit
def _flush(thread: int, flush: int, modes: NDArray[np.int64]) -> None:
    call(flush, (modes[thread:].ctypes.data,))
