"""Every environment variable the product reads, in one typed place.

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


def activations() -> str | None:
    """``DLRMJIT_ACTIVATIONS``: what MLPs in ``--precision bf16`` multiply weights by.

    ``fp32``, or ``bf16``, which of the compiled kernels only those for processors with BF16
    instructions do, and by default do.
    """
    return os.environ.get("DLRMJIT_ACTIVATIONS") or None


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


def pin_threads() -> bool:
    """``DLRMJIT_PIN``: ``0`` leaves threads where the system puts them.

    So do OpenMP's own ``OMP_PROC_BIND`` and ``GOMP_CPU_AFFINITY``, which bind them differently.
    """
    others = ("OMP_PROC_BIND", "GOMP_CPU_AFFINITY")
    bound = any(os.environ.get(name) for name in others)
    return os.environ.get("DLRMJIT_PIN", "1") != "0" and not bound


def alltoall() -> str:
    """``DLRM_ALLTOALL_IMPL``: how embeddings travel, ``alltoall``, ``scatter`` or so."""
    return os.environ.get("DLRM_ALLTOALL_IMPL") or "alltoall"


def launched_ranks() -> int:
    """Ranks that a launcher such as ``mpiexec`` started with this process; 1 without one."""
    return _number(("PMI_SIZE", "PMIX_SIZE", "OMPI_COMM_WORLD_SIZE"), 1)


def launched_rank() -> int:
    """Number of this process among those; 0 without a launcher."""
    return _number(("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"), 0)


def _number(names: tuple[str, ...], default: int) -> int:
    values = (os.environ.get(name, "") for name in names)
    return next((int(value) for value in values if value.isdigit()), default)


def reserve_threads(count: int) -> None:
    """Ask for a thread pool of at least ``count``, which only works before Numba is imported."""
    if "numba" not in sys.modules:
        cpus = os.cpu_count() or 1
        os.environ.setdefault("NUMBA_NUM_THREADS", str(max(count, cpus)))
