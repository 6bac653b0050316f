"""All environment variables that the kernels read, as typed functions.

A variable is read when its function is called, never at import, so a program may set
``os.environ`` before the first kernel runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def target() -> str | None:
    """Return ``DLRMJIT_TARGET``, the instruction set to use instead of this machine's best.

    It is ``amx_bf16``, ``avx512_bf16``, ``avx512``, ``avx2``, ``sse`` or ``neon``.
    """
    return os.environ.get("DLRMJIT_TARGET") or None


def cache_dir() -> Path:
    """Return ``DLRMJIT_CACHE_DIR``, the folder of compiled kernels; it is always safe to delete."""
    explicit = os.environ.get("DLRMJIT_CACHE_DIR")
    if explicit:
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else _home() / ".cache") / "dlrmjit"


def _home() -> Path:
    """Return the user's home, or without any a path under which nothing can be written.

    A user that a container invents has neither ``HOME`` nor an entry in the list of users;
    compiled kernels are then not stored.
    """
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)


def pin_threads() -> bool:
    """Return whether kernels may pin their threads to CPUs.

    They may not if ``DLRMJIT_PIN`` is ``0``, or if OpenMP binds the threads, by
    ``OMP_PROC_BIND`` or ``GOMP_CPU_AFFINITY``.
    """
    return os.environ.get("DLRMJIT_PIN", "1") != "0" and not binds_openmp()


def binds_openmp() -> bool:
    """Return whether the environment says how OpenMP binds threads to CPUs."""
    return any(os.environ.get(name) for name in ("OMP_PROC_BIND", "GOMP_CPU_AFFINITY"))


def reserve_threads(count: int) -> None:
    """Request a thread pool of at least ``count``; effective only before Numba is imported."""
    if "numba" not in sys.modules:
        cpus = os.cpu_count() or 1
        os.environ.setdefault("NUMBA_NUM_THREADS", str(max(count, cpus)))
