"""Every environment variable the product reads, in one typed place.

A knob is read when it is asked for, never at import, so a program may set ``os.environ``
before the first kernel runs. Those of the kernels are theirs, and named here too.
"""

from __future__ import annotations

import os

from dlrmjit_kernels.knobs import cache_dir, pin_threads, reserve_threads, target

__all__ = [
    "activations",
    "alltoall",
    "backend",
    "cache_dir",
    "launched_rank",
    "launched_ranks",
    "pin_threads",
    "reserve_threads",
    "target",
]


def activations() -> str | None:
    """``DLRMJIT_ACTIVATIONS``: what MLPs in ``--precision bf16`` multiply weights by.

    ``fp32``, or ``bf16``, which of the compiled kernels only those for processors with BF16
    instructions do, and by default do.
    """
    return os.environ.get("DLRMJIT_ACTIVATIONS") or None


def backend() -> str:
    """``DLRMJIT_BACKEND``: ``jit`` (default) or ``reference`` (NumPy alone)."""
    return os.environ.get("DLRMJIT_BACKEND") or "jit"


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
