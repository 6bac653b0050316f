"""The operations of a DLRM: one table of rules per backend, the same names in each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from dlrmjit import knobs
from dlrmjit.errors import ConfigError

if TYPE_CHECKING:
    from dlrmjit.ops.backend import Backend

_MODULES = {"jit": "dlrmjit.ops.jit.backend", "reference": "dlrmjit.ops.reference.backend"}


def get_backend(name: str | Backend | None = None) -> Backend:
    """Return the backend ``name``: ``jit``, ``reference``, or by default ``DLRMJIT_BACKEND``.

    A backend object is returned as it is. Raises ConfigError for any other name, and for ``jit``
    if ``NUMBA_DISABLE_JIT`` is set.
    """
    name = name or knobs.backend()
    if not isinstance(name, str):
        return name
    if name not in _MODULES:
        raise ConfigError(f"unknown backend {name!r}; known are {', '.join(_MODULES)}")
    if name == "jit" and knobs.is_jit_disabled():
        raise ConfigError(
            "NUMBA_DISABLE_JIT is set, but the jit backend is compiled by Numba; unset it, or use "
            "--backend reference (DLRMJIT_BACKEND=reference), which is plain NumPy"
        )
    backend: Backend = importlib.import_module(_MODULES[name]).BACKEND
    return backend
