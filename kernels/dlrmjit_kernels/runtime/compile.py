"""How kernels are compiled and cached: three decorators over Numba and the cache they share.

Numba's own on-disk cache keys a function on its source file alone, so a kernel that calls a
helper from another file runs stale code after the helper changes, and two processes that fill
an empty cache at once may pair one's index with the other's code. Here the key is the text of
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

# As for our own loader (codegen/engine.py): sections of a kernel must lie near each other,
# however large the tables between free pages are. Read when Numba first compiles.
if not os.environ.get("NUMBA_USE_LLVMLITE_MEMORY_MANAGER"):
    numba.config.USE_LLVMLITE_MEMORY_MANAGER = 1

# Kernels call these too, but the module that defines them must not load Numba.
for _function in (ceil_div, round_up):
    register_jitable(_function)

F = TypeVar("F", bound=Callable[..., Any])
Call = Callable[[], object]
"""A kernel with its operands: calling it checks nothing, looks nothing up, and computes."""

try:
    import fcntl
except ImportError:  # pragma: no cover - not a POSIX system: caching goes unlocked
    fcntl = None  # type: ignore[assignment]


@functools.cache
def sources_digest(patterns: tuple[str, ...] = ("**/*.py",)) -> str:
    """Hash of kernel sources, of all by default, and of the compilers' versions.

    Of all of them it is the identity of the cache.
    """
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    folder = Path(__file__).parents[1]
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cache_path() -> Path:
    """Folder of the compiled kernels of exactly these sources."""
    return knobs.cache_dir() / "kernels" / sources_digest()


@contextmanager
def cache_lock() -> Iterator[None]:
    """Hold the cache folder against other processes; released by the system if we die."""
    folder = cache_path()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as handle:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    """Places every kernel in :func:`cache_path`, stamped by all sources instead of its own."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._py_file = py_file  # Numba names it when a kernel cannot be cached
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
    """Numba's function cache in our folder; one that is damaged or not writable is only slower."""

    _impl_class = _CacheImpl

    def __init__(self, py_func: Callable[..., Any]) -> None:
        super().__init__(py_func)
        self._lock = FileLock()
        self._lock_path = cache_path() / f"{self._impl.filename_base}.lock"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the stored kernel, or None to the one process that compiles it for all."""
        found = self._load(sig, target_context)
        if found is not None:
            return found
        with suppress(OSError):
            self._lock.acquire(self._lock_path)
        found = self._load(sig, target_context)
        if found is not None:
            self._lock.release()
        return found

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
