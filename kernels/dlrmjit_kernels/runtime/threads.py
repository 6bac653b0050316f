"""The number of threads of the kernels: from the CPUs this process may run on, or as set.

Only the time depends on it, never a result.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numba

from dlrmjit_kernels import knobs
from dlrmjit_kernels.errors import ThreadError
from dlrmjit_kernels.runtime import thread_pool
from dlrmjit_kernels.runtime.cgroups import control_groups

_allowed: frozenset[int] = frozenset()


def allowed_cpus() -> frozenset[int]:
    """Return the CPUs this process may run on, whatever the calling thread is pinned to."""
    if _allowed:
        return _allowed
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def set_allowed_cpus(cpus: frozenset[int]) -> None:
    """Record the CPUs of the process before its threads are pinned to some of them."""
    global _allowed
    _allowed = cpus


if knobs.binds_openmp():  # to one CPU each, this thread included, once its threads start
    set_allowed_cpus(allowed_cpus())


def reset_affinity() -> None:
    """Let the calling thread run on every CPU of the process again.

    A new thread inherits the affinity of the thread that starts it, and would share the one CPU
    of a pinned thread. It stays there if those CPUs have been taken from the process meanwhile.
    """
    if _allowed:
        with suppress(OSError):
            os.sched_setaffinity(0, _allowed)


def available_cpus() -> int:
    """Return the number of CPUs by affinity mask and cgroup quotas, rounded down, at least 1."""
    quotas = (cpu_quota(group) for group in control_groups("cpu"))
    limits = [int(cpus) for cpus in quotas if cpus is not None]
    return max(1, min([len(allowed_cpus()), *limits]))


def cpu_quota(group: Path) -> float | None:
    """Return the CPUs of a control group, of version 2 or 1; None if it has no limit."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no such files, or "max" instead of a number
        return None


def set_threads(count: int) -> None:
    """Set the number of threads of the kernels that this thread calls.

    Raises
    ------
    ThreadError
        If ``count`` is below 1, or above the size of the thread pool. The pool is sized when
        Numba is first imported: from the CPUs, or from ``NUMBA_NUM_THREADS``. A process that was
        forked after its parent had used kernels has one thread.
    """
    limit = numba.config.NUMBA_NUM_THREADS
    if count < 1:
        raise ThreadError(f"the number of threads must be at least 1, not {count}")
    if count > 1 and thread_pool.is_forked():
        raise ThreadError(
            f"{count} threads were requested, but this process was forked from one that had used "
            "kernels, so they run on one thread; start it with multiprocessing's spawn instead"
        )
    if count > limit:
        raise ThreadError(
            f"{count} threads were requested, but the thread pool has {limit}; set "
            f"NUMBA_NUM_THREADS={count} in the environment before the program starts"
        )
    numba.set_num_threads(count)


def get_threads() -> int:
    """Return the number of threads that the next kernel will use, or fewer if others use them."""
    return 1 if thread_pool.is_forked() else thread_pool.threads_set()
