"""Denormal numbers count as zero while kernels compute.

An operation on them costs x86 processors about a hundred cycles, and gradients that die out meet
many. The mode belongs to a thread: a pool's threads run nothing but kernels and keep it, the
calling thread, which also runs the user's code, gets its own mode back.
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
    """What the calling thread has seen to: a pool of threads belongs to its caller."""

    threads = 0


_caller = _Caller()


def _apply(flush: bool, place: NDArray[np.int64]) -> None:
    _MODE(address(FloatMode(flush), current_target()))(place.ctypes.data)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """In this block, operands and results of float operations below 2**-126 count as zero.

    That holds for the calling thread, whose mode comes back afterwards, and for the threads of
    the kernels it calls, which keep the mode.
    """
    before = np.zeros(1, np.int64)
    _apply(True, before)
    try:
        _flush_pool(get_threads())
        yield
    finally:
        _apply(False, before)


def _flush_pool(threads: int) -> None:
    """See to the mode of the pool, once for each size it has."""
    if _caller.threads != threads:
        flush = address(FloatMode(flush=True), current_target())
        # two at least: a single task would run here, and not on the one thread of some pools
        _flush_all(flush, np.zeros(max(2, threads), np.int64))
        _caller.threads = threads


@jit
def _flush_all(flush: int, places: NDArray[np.int64]) -> None:
    """Each thread of the pool sets its own mode."""
    run_tasks(_flush, len(places), (flush, places), ALL_THREADS)


@task_jit
def _flush(thread: int, flush: int, places: NDArray[np.int64]) -> None:
    call(flush, (places[thread:].ctypes.data,))
