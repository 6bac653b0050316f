"""Facts about the machine of a run, for the log and the summary."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from dlrmjit_kernels.runtime.affinity import pin_threads
from dlrmjit_kernels.runtime.buffers import available_memory
from dlrmjit_kernels.runtime.target import current_target
from dlrmjit_kernels.runtime.threads import available_cpus, get_threads, set_threads

_BUSY = 0.75  # share of the CPUs in use by other programs above which to warn


def use_threads(count: int | None) -> None:
    """Compute with ``count`` threads, by default with as many as this process has CPUs.

    Threads are pinned if there is one for each CPU. Raises ThreadError when the pool, sized when
    Numba was imported, is smaller than ``count``.
    """
    set_threads(count or min(available_cpus(), numba.config.NUMBA_NUM_THREADS))
    pin_threads()


def oversubscription(threads: int, cpus: int, load: float, all_cpus: int) -> str:
    """Return a warning that threads will compete for CPUs, or nothing.

    ``load`` is the system's average number of runnable tasks over the last minute, before this
    process computes, on ``all_cpus``; this process may use ``cpus`` of these, a rank few.
    """
    if threads > cpus:
        return (
            f"{threads} threads share {cpus} CPUs, and every operation waits for the slowest; "
            f"--threads {cpus} is faster"
        )
    if load > _BUSY * all_cpus:
        return (
            f"other programs keep about {load:.1f} of {all_cpus} CPUs busy, and every operation "
            "waits for the slowest thread"
        )
    return ""


def warn_if_oversubscribed() -> None:
    """Print the warning of :func:`oversubscription`, if any, on the standard error."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    note = oversubscription(get_threads(), available_cpus(), load, os.cpu_count() or 1)
    if note:
        print(f"dlrmjit: note: {note}", file=sys.stderr)


def machine_facts() -> dict[str, Any]:
    """Return processor, instruction set, CPUs, threads, memory in bytes, and versions."""
    return {
        "cpu": cpu_model(),
        "isa": current_target().isa,
        "cores": available_cpus(),
        "threads": get_threads(),
        "memory_bytes": available_memory(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
    }


def cpu_model(listing: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model name, or its architecture where the system has no name."""
    try:
        lines = listing.read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
