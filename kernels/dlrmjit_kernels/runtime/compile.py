"""Three decorators over Numba that compile kernels, and the on-disk cache they share.

Numba's on-disk cache keys a function on its source file alone: a kernel that calls a helper of
another file would run stale code after the helper changes. And two processes that fill an empty
cache at once may pair the index of one with the code of the other. Here the key is a digest of
all kernel sources, and writing takes a lock.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import llvmlite
import numba
from numba.core import caching
from numba.extending import register_jitable

from dlrmjit_kernels import knobs
from dlrmjit_kernels.runtime.file_lock import FileLock
from dlrmjit_kernels.runtime.integers import ceil_div, round_up

# As in codegen/engine.py: the sections of a kernel must be loaded near each other, or relative
# addresses between them overflow when large tables are mapped. Numba reads this when it first
# compiles.
if not os.environ.get("NUMBA_USE_LLVMLITE_MEMORY_MANAGER"):
    numba.config.USE_LLVMLITE_MEMORY_MANAGER = 1

# Kernels call these too, but the module that defines them must not load Numba.
for _function in (ceil_div, round_up):
    register_jitable(_function)

F = TypeVar("F", bound=Callable[..., Any])
Call = Callable[[], object]
"""A kernel bound to its operands: calling it only computes, without checks or look-ups."""

try:
    import fcntl
except ImportError:  # pragma: no cover - not a POSIX system: the cache is not locked
    fcntl = None  # type: ignore[assignment]


@functools.cache
def sources_digest(patterns: tuple[str, ...] = ("**/*.py",)) -> str:
    """Return a hash of the kernel sources that match ``patterns`` and of the compilers' versions.

    The hash of all sources identifies the cache.
    """
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    folder = Path(__file__).parents[1]
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cache_path() -> Path:
    """Return the folder of the kernels compiled from exactly these sources."""
    return knobs.cache_dir() / "kernels" / sources_digest()


@contextmanager
def cache_lock() -> Iterator[None]:
    """Lock the cache folder against other processes; the system unlocks it if this one dies."""
    folder = cache_path()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as handle:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    """Stores every kernel in :func:`cache_path`, stamped with the digest of all sources."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._py_file = py_file  # Numba's messages name it when a kernel cannot be cached
        self._disambiguator = f"{Path(py_file).stem}-{py_func.__code__.co_firstlineno}"

    def get_cache_path(self) -> str:
        return os.fspath(cache_path())

    def get_source_stamp(self) -> str:
        return sources_digest()

    def get_disambiguator(self) -> str:
        return self._disambiguator

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator:
        return cls(py_func, py_file)


class _CacheImpl(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


_DAMAGED = (EOFError, pickle.UnpicklingError, ValueError)


class _KernelCache(caching.FunctionCache):  # type: ignore[misc]
    """Numba's function cache in our folder; recompiles what is damaged or cannot be written."""

    _impl_class = _CacheImpl

    def __init__(self, py_func: Callable[..., Any]) -> None:
        super().__init__(py_func)
        self._lock = FileLock()
        self._lock_path = cache_path() / f"{self._impl.filename_base}.lock"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the stored kernel, or None to the one process that shall compile it.

        Other processes wait until that one has stored it.
        """
        kernel = self._load(sig, target_context)
        if kernel is not None:
            return kernel
        with suppress(OSError):
            self._lock.acquire(self._lock_path)
        kernel = self._load(sig, target_context)
        if kernel is not None:
            self._lock.release()
        return kernel

    def _load(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except (OSError, *_DAMAGED):
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            with cache_lock():
                self._save(sig, data)
        except OSError:
            self.disable()
        finally:
            self._lock.release()

    def _save(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except _DAMAGED:
            self.flush()
            super().save_overload(sig, data)


def _compile(function: F, **options: Any) -> F:
    dispatcher = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True, **options)(
        function
    )
    dispatcher._cache = _KernelCache(function)
    return dispatcher  # type: ignore[no-any-return]


def jit(function: F) -> F:
    """Compile a single-threaded kernel or helper."""
    return _compile(function)


def task_jit(function: F) -> F:
    """Compile a task of :func:`.parallel.run_tasks`; Python cannot call it."""
    return _compile(function, no_cpython_wrapper=True)


def parallel_jit(function: F) -> F:
    """Compile a function whose ``prange`` loops run on all threads."""
    return _compile(function, parallel=True)
