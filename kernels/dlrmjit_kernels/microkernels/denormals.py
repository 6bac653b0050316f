"""Treats denormal numbers as zero while kernels compute.

An operation on one costs an x86 processor about a hundred cycles, and vanishing gradients have
many. The mode is a property of a thread: threads of the pool take over that of the calling thread,
which also runs the user's code and is restored afterwards.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen.engine import address
from dlrmjit_kernels.microkernels.float_mode import FloatMode
from dlrmjit_kernels.runtime.target import current_target

_MODE = ctypes.PYFUNCTYPE(None, ctypes.c_int64)  # it takes too little time to let others run


@functools.lru_cache(maxsize=2)
def _setter(flush: bool) -> Callable[[int], None]:
    return _MODE(address(FloatMode(flush), current_target()))


def _apply(flush: bool, mode: NDArray[np.int64]) -> None:
    _setter(flush)(mode.ctypes.data)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Treat operands and results of float operations below 2**-126 as zero in this block.

    This holds for the calling thread and for the kernels it calls, on all their threads.
    """
    before = np.zeros(1, np.int64)
    _apply(True, before)
    try:
        yield
    finally:
        _apply(False, before)
