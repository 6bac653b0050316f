"""How many threads kernels use: from the CPUs this process may run on, or as told.

Results never depend on the number; only the time does.
"""

from __future__ import annotations

import os
from pathlib import Path

import numba

from dlrmjit_kernels.errors import ThreadError
from dlrmjit_kernels.runtime.cgroups import control_groups

_granted: frozenset[int] = frozenset()


def allowed_cpus() -> frozenset[int]:
    """Numbers of the CPUs this process may run on, whatever the calling thread is pinned to."""
    if _granted:
        return _granted
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def set_allowed_cpus(cpus: frozenset[int]) -> None:
    """Note what the process may run on, before its threads give up part of it."""
    global _granted
    _granted = cpus


def reset_affinity() -> None:
    """Let the calling thread run on every CPU of the process again.

    A thread inherits its maker's CPUs; one that works beside pinned threads must not sit on
    the CPU of one of them.
    """
    if _granted:
        os.sched_setaffinity(0, _granted)


def available_cpus() -> int:
    """CPUs this process may run on: its affinity mask, lowered by cgroup quotas, rounded down."""
    quotas = (_quota(group) for group in control_groups("cpu"))
    granted = [int(cpus) for cpus in quotas if cpus is not None]
    return max(1, min([len(allowed_cpus()), *granted]))


def _quota(group: Path) -> float | None:
    """CPUs that a control group may use, by the files of version 2 or 1; None without a limit."""
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
    """Let kernels use ``count`` threads.

    Raises
    ------
    ThreadError
        If ``count`` is below 1, or above the size of the thread pool. The pool is sized when
        Numba is first imported: from the CPUs, or from ``NUMBA_NUM_THREADS``.
    """
    limit = numba.config.NUMBA_NUM_THREADS
    if count < 1:
        raise ThreadError(f"the number of threads must be at least 1, not {count}")
    if count > limit:
        raise ThreadError(
            f"{count} threads were asked for, but the thread pool has {limit}; start the program "
            f"with NUMBA_NUM_THREADS={count} in its environment for a larger one"
        )
    numba.set_num_threads(count)


def get_threads() -> int:
    """Threads that the next kernel will use."""
    return int(numba.get_num_threads())
