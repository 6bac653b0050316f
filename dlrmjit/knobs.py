"""Every environment variable the product reads, in one typed place.

A knob is read when it is asked for, never at import, so a program may set ``os.environ``
before the first kernel runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def target() -> str | None:
    """``DLRMJIT_TARGET``: force the instruction set (``avx512``, ``avx2``, ``sse``, ``neon``)."""
    return os.environ.get("DLRMJIT_TARGET") or None


def backend() -> str:
    """``DLRMJIT_BACKEND``: ``jit`` (default) or ``reference`` (NumPy alone)."""
    return os.environ.get("DLRMJIT_BACKEND") or "jit"


def cache_dir() -> Path:
    """``DLRMJIT_CACHE_DIR``: where compiled kernels are kept; always safe to delete."""
    explicit = os.environ.get("DLRMJIT_CACHE_DIR")
    if explicit:
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dlrmjit"


def reserve_threads(count: int) -> None:
    """Ask for a thread pool of at least ``count``, which only works before Numba is imported."""
    if "numba" not in sys.modules:
        cpus = os.cpu_count() or 1
        os.environ.setdefault("NUMBA_NUM_THREADS", str(max(count, cpus)))
