"""Who may use the threads of the kernels: several Python threads share one pool, forks have none.

A parallel loop that runs while others do takes what is left of the CPUs, or runs on its calling
thread: more threads than CPUs only delay each other, and one of Numba's threading layers ends the
process when two loops meet. A forked process has no pool, because only the thread that forks is
copied: GNU OpenMP would end it, so its kernels run on the calling thread.
"""

from __future__ import annotations

import importlib
import os

import numba
import numpy as np
from llvmlite import binding
from numba.core.compiler_lock import global_compiler_lock
from numba.np.ufunc import parallel as numba_parallel

from dlrmjit_kernels.errors import ThreadError

SYMBOL = "dlrmjit_thread_pool"
"""Name under which compiled loops find the state of the pool: three int64, as follows."""
FORKED, IN_USE, LIMIT = range(3)
"""Whether this process has no pool; threads of the loops that run; most threads of all together.

A loop that finds no other running may use as many threads as are set.
"""
_state = np.zeros(3, np.int64)
_LAYERS = {"tbb": "tbbpool", "omp": "omppool", "workqueue": "workqueue"}
_KINDS = ("default", "safe", "threadsafe", "forksafe")

binding.add_symbol(SYMBOL, int(_state.ctypes.data))


def start(cpus: int) -> None:
    """Start the threads, if they are not running, and let all loops together use ``cpus``."""
    if _state[FORKED]:
        return
    numba.get_num_threads()  # loads the threading layer, whose symbols parallel loops call
    # The work queue of Numba ends the process if two loops use it at once.
    _state[LIMIT] = 0 if numba.threading_layer() == "workqueue" else cpus


def threads_set() -> int:
    """Return the number of threads set for the calling thread.

    Numba's own function takes two locks at every call to see whether the threads have started.
    """
    if numba_parallel._is_initialized:
        return int(numba_parallel._get_num_threads())
    return int(numba.get_num_threads())


def is_forked() -> bool:
    """Return whether this process was forked from one whose pool had started."""
    return bool(_state[FORKED])


def check_layer() -> None:
    """Raise ThreadError if ``NUMBA_THREADING_LAYER`` is unknown or not installed."""
    name = str(numba.config.THREADING_LAYER).lower()
    if name in _KINDS:
        needed = "tbb" if name == "safe" else "workqueue"
    elif name in _LAYERS:
        needed = name
    else:
        known = ", ".join([*_KINDS, *_LAYERS])
        raise ThreadError(
            f"NUMBA_THREADING_LAYER is {name!r}, which Numba does not know; unset it, or use one "
            f"of {known}"
        )
    try:
        importlib.import_module(f"numba.np.ufunc.{_LAYERS[needed]}")
    except ImportError:
        raise ThreadError(
            f"NUMBA_THREADING_LAYER is {name!r}, but Numba finds no {needed} library; unset it, "
            f"or install {needed}"
        ) from None


def _before_fork() -> None:
    """Wait until no other thread compiles: its lock would stay locked in the child."""
    global_compiler_lock.acquire()


def _after_fork_in_parent() -> None:
    global_compiler_lock.release()


def _after_fork_in_child() -> None:
    global_compiler_lock.release()
    _state[IN_USE] = 0
    if numba_parallel._is_initialized:
        _state[FORKED] = 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
