"""Every environment variable that the product reads, as typed functions.

A variable is read when its function is called, never at import, so a program may set
``os.environ`` before the first kernel runs. Those of the kernels are re-exported.
"""

from __future__ import annotations

import os

from dlrmjit_kernels.errors import ConfigError
from dlrmjit_kernels.knobs import cache_dir, pin_threads, reserve_threads, target

LONGEST_TIMEOUT = 1e9
"""Seconds: 32 years. Python's locks cannot wait for 10 times as long."""

__all__ = [
    "LONGEST_TIMEOUT",
    "activations",
    "alltoall",
    "backend",
    "cache_dir",
    "comm_timeout",
    "is_jit_disabled",
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


def is_jit_disabled() -> bool:
    """``NUMBA_DISABLE_JIT``: Numba's own, for debugging; the ``jit`` backend is then refused."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0").strip() not in ("", "0")


def compile_notes() -> bool:
    """Return whether commands note that kernels are compiled: not if ``DLRMJIT_NOTES`` is 0."""
    return os.environ.get("DLRMJIT_NOTES") != "0"


def alltoall() -> str:
    """``DLRM_ALLTOALL_IMPL``: how pooled embeddings are exchanged; by default ``alltoall``."""
    return os.environ.get("DLRM_ALLTOALL_IMPL") or "alltoall"


def comm_timeout() -> float:
    """``DLRMJIT_COMM_TIMEOUT``: seconds after which a rank that waits for others ends the job."""
    value = os.environ.get("DLRMJIT_COMM_TIMEOUT") or "600"
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST_TIMEOUT:
        raise ConfigError(
            "DLRMJIT_COMM_TIMEOUT must be positive and at most "
            f"{LONGEST_TIMEOUT:g} seconds, not {value!r}"
        )
    return seconds
