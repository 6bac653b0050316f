"""Every environment variable that the product reads, as typed functions.

A variable is read when its function is called, never at import, so a program may set
``os.environ`` before the first kernel runs. Those of the kernels are re-exported.
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
    """``DLRMJIT_ACTIVATIONS``: the precision of the activations of MLPs in ``--precision bf16``.

    ``bf16`` is the default of compiled kernels on processors with BF16 instructions, and needs
    them there; elsewhere the default is ``fp32``.
    """
    return os.environ.get("DLRMJIT_ACTIVATIONS") or None


def backend() -> str:
    """``DLRMJIT_BACKEND``: ``jit`` (default) or ``reference`` (NumPy alone)."""
    return os.environ.get("DLRMJIT_BACKEND") or "jit"


def alltoall() -> str:
    """``DLRM_ALLTOALL_IMPL``: how pooled embeddings are exchanged; by default ``alltoall``."""
    return os.environ.get("DLRM_ALLTOALL_IMPL") or "alltoall"


def launched_ranks() -> int:
    """Return the number of ranks that a launcher such as ``mpiexec`` started; 1 without one."""
    return _integer(("PMI_SIZE", "PMIX_SIZE", "OMPI_COMM_WORLD_SIZE"), 1)


def launched_rank() -> int:
    """Return the rank of this process among those; 0 without a launcher."""
    return _integer(("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"), 0)


def _integer(names: tuple[str, ...], default: int) -> int:
    values = (os.environ.get(name, "") for name in names)
    return next((int(value) for value in values if value.isdigit()), default)
