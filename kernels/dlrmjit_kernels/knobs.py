"""Every environment variable the kernels read, in one typed place.

A knob is read when it is asked for, never at import, so a program may set ``os.environ``
before the first kernel runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def target() -> str | None:
    """``DLRMJIT_TARGET``: force the instruction set.

    ``avx512_bf16``, ``avx512``, ``avx2``, ``sse`` or ``neon``, as far as this machine runs it.
    """
    return os.environ.get("DLRMJIT_TARGET") or None


def cache_dir() -> Path:
    """``DLRMJIT_CACHE_DIR``: where compiled kernels are kept; always safe to delete."""
    explicit = os.environ.get("DLRMJIT_CACHE_DIR")
    if explicit:
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else _home() / ".cache") / "dlrmjit"


def _home() -> Path:
    """Return the user's home, or without any a path under which nothing can be written.

    A user that a container invents has neither ``HOME`` nor an entry in the list of users;
    compiled kernels are then not kept.
    """
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)


def pin_threads() -> bool:
    """``DLRMJIT_PIN``: ``0`` leaves threads where the system puts them.

    So do OpenMP's own ``OMP_PROC_BIND`` and ``GOMP_CPU_AFFINITY``, which bind them differently.
    """
    others = ("OMP_PROC_BIND", "GOMP_CPU_AFFINITY")
    bound = any(os.environ.get(name) for name in others)
    return os.environ.get("DLRMJIT_PIN", "1") != "0" and not bound


def reserve_threads(count: int) -> None:
    """Ask for a thread pool of at least ``count``, which only works before Numba is imported."""
    if "numba" not in sys.modules:
        cpus = os.cpu_count() or 1
        os.environ.setdefault("NUMBA_NUM_THREADS", str(max(count, cpus)))
