"""Decorators over Numba that compile kernels, and the on-disk cache they share.

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
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import llvmlite
import numba
from numba.core import caching
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import _FunctionCompiler  # type: ignore[attr-defined]
from numba.core.registry import CPUDispatcher
from numba.core.sigutils import normalize_signature
from numba.extending import register_jitable

from dlrmjit_kernels import compile_events, knobs
from dlrmjit_kernels.runtime.cache import folder as cache_folder
from dlrmjit_kernels.runtime.cache import parts
from dlrmjit_kernels.runtime.cache.file_lock import FileLock, lock_within
from dlrmjit_kernels.runtime.integers import ceil_div, round_up

# As in codegen/engine.py: the sections of a kernel must be loaded near each other, or relative
# addresses between them overflow when large tables are mapped. Numba reads this when it first
# compiles.
if not os.environ.get("NUMBA_USE_LLVMLITE_MEMORY_MANAGER"):
    numba.config.USE_LLVMLITE_MEMORY_MANAGER = 1

# Kernels call these too, but the module that defines them must not load Numba.
for _function in (ceil_div, round_up):
    register_jitable(_function)

_FEW_FILES = 100  # in the folder of a version; a training leaves about 250
F = TypeVar("F", bound=Callable[..., Any])
Call = Callable[[], object]
"""A kernel bound to its operands: calling it only computes, without checks or look-ups."""

LONGEST_STORING = 30.0  # seconds to wait for others that store kernels, many times what they take
_patience = LONGEST_STORING


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


def version_folder() -> Path:
    """Return the folder of the kernels compiled from exactly these sources, in the cache."""
    return Path("kernels", sources_digest())


def cache_path() -> Path:
    """Return the path of :func:`version_folder`."""
    return knobs.cache_dir() / version_folder()


def is_cache_cold() -> bool:
    """Return whether the cache may be filled but lacks most kernels of a training."""
    return cache_folder.has_fewer_files(version_folder(), _FEW_FILES)


@contextmanager
def cache_lock() -> Iterator[None]:
    """Lock the cache folder against other processes; the system unlocks it if this one dies.

    Raises TimeoutError if another process has the lock for far longer than a kernel takes to store,
    because it is stopped. Until it goes on, this process waits no second time.
    """
    global _patience
    with open(cache_folder.open_lock(version_folder(), "lock"), "w") as handle:
        if not lock_within(handle, _patience):
            _patience = 0.0
            raise TimeoutError("another process has the lock of the kernel cache, and is stopped")
        _patience = LONGEST_STORING
        yield


@functools.cache
def _use_cache(is_new: bool) -> None:
    """Note once, and once more when a kernel is stored, that this version is in use."""
    cache_folder.use_version(version_folder(), is_new)


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    """Stores every kernel in :func:`cache_path`, stamped with the digest of all sources."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._py_file = py_file  # Numba's messages name it when a kernel cannot be cached
        self._disambiguator = f"{Path(py_file).stem}-{py_func.__code__.co_firstlineno}"

    def ensure_cache_path(self) -> None:
        """Do nothing: :mod:`.cache.folder` makes the folder when a file is written."""

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

    def rebuild(self, target_context: Any, payload: Any) -> Any:
        """Return the function that was stored, which may be a part."""
        load = parts.load_part if parts.is_stored_part(payload) else super().rebuild
        return load(target_context, payload)


class _CacheFile(caching.IndexDataCacheFile):  # type: ignore[misc]
    """Numba's index and data files of a function; both are unpickled only if they are intact.

    Every data file has a name that no other had before, because a process that has read an index
    may read a file of it when another process has replaced both.
    """

    def save(self, key: Any, data: Any) -> None:
        overloads = self._load_index()
        name = overloads.get(key) or self._data_name(secrets.randbits(63))
        self._save_data(name, data)
        self._save_index({**overloads, key: name})

    def _load_index(self) -> dict[Any, str]:
        content = cache_folder.read(Path(self._cache_path), self._index_name)
        overloads: dict[Any, str] = {} if content is None else pickle.loads(content)
        return overloads

    def _save_index(self, overloads: dict[Any, str]) -> None:
        cache_folder.write(Path(self._cache_path), self._index_name, self._dump(overloads))

    def _load_data(self, name: str) -> Any:
        content = cache_folder.read(Path(self._cache_path), name)
        if content is None:
            raise FileNotFoundError(name)
        return pickle.loads(content)

    def _save_data(self, name: str, data: Any) -> None:
        cache_folder.write(Path(self._cache_path), name, self._dump(data))


class _KernelCache(caching.FunctionCache):  # type: ignore[misc]
    """Numba's function cache in our folder; recompiles what is damaged or cannot be written."""

    _impl_class = _CacheImpl

    def __init__(self, py_func: Callable[..., Any]) -> None:
        super().__init__(py_func)
        base = self._impl.filename_base
        self._cache_file = _CacheFile(os.fspath(version_folder()), base, sources_digest())
        self._lock = FileLock()
        self._lock_path = version_folder() / f"{base}.lock"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the stored kernel, or None to the one process that shall compile it.

        Other processes wait until that one has stored it.
        """
        _use_cache(False)
        kernel = super().load_overload(sig, target_context)
        if kernel is not None:
            return kernel
        with suppress(OSError):
            self._lock.acquire(self._lock_path, _open_lock)
        kernel = super().load_overload(sig, target_context)
        if kernel is not None:
            self._lock.release()
        else:
            compile_events.compiling()
        return kernel

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        """Return the key of a function, of which the cache may have a part and the whole."""
        return (*super()._index_key(sig, codegen), _is_for_caller())

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            with cache_lock():
                super().save_overload(sig, data)
            _use_cache(True)
        except OSError:
            self.disable()
        finally:
            self._lock.release()


def _open_lock(path: Path) -> int:
    return cache_folder.open_lock(path.parent, path.name)


_depth = 0  # functions that are being compiled, the callers of each other


def _is_for_caller() -> bool:
    """Return whether the function that is being compiled is compiled for a kernel that calls it."""
    return _depth > 1


class _Compiler(_FunctionCompiler):  # type: ignore[misc]
    def _customize_flags(self, flags: Any) -> Any:
        """Compile nothing but LLVM code for a caller; of parallel loops, machine code is called."""
        if _is_for_caller() and not flags.auto_parallel.enabled:
            flags.no_cpython_wrapper = flags.no_compile = True
        return flags


class Kernel(CPUDispatcher):  # type: ignore[misc]
    """A kernel, which is compiled as a :mod:`part <.cache.parts>` if another one calls it first."""

    def compile(self, sig: Any) -> Any:
        """Compile for the operands of types ``sig``, as a whole unless a caller is compiled."""
        global _depth
        with global_compiler_lock:
            operands, _ = normalize_signature(sig)
            known = self.overloads.get(tuple(operands))
            if _depth == 0 and known is not None and parts.is_part(known):
                del self.overloads[tuple(operands)]  # Python calls it, too
            _depth += 1
            try:
                return super().compile(sig)
            finally:
                _depth -= 1

    def add_overload(self, cres: Any) -> None:
        """Note what was compiled or loaded; Python finds only functions as a whole."""
        if cres.entry_point is None:
            cres = parts.as_part(cres)
        if parts.is_part(cres):
            self.overloads[tuple(cres.signature.args)] = cres
        else:
            super().add_overload(cres)
            parts.load_environments(cres)


_noted: dict[object, Call] | None = None
_kernels: list[Any] = []


class _NotedKernel(Kernel):
    """A kernel in a dry run, which notes the types of its operands."""

    def __call__(self, *args: Any) -> bool:
        note(self.compile, tuple(map(self.typeof_pyval, args)))
        return False


@contextmanager
def dry_run() -> Iterator[dict[object, Call]]:
    """Note what would be compiled, as functions that compile it, and run no kernel.

    Kernels return False meanwhile, so what calls them computes nothing; those declared by
    :func:`jit_for_sizes` do run. For a process that does nothing else.
    """
    global _noted
    _noted = {}
    for kernel in _kernels:
        kernel.__class__ = _NotedKernel
    try:
        yield _noted
    finally:
        _noted = None
        for kernel in _kernels:
            kernel.__class__ = Kernel


def note(compile_it: Callable[..., object], *operands: object) -> bool:
    """Note a kernel once, in a dry run; return False in any other."""
    if _noted is None:
        return False
    _noted.setdefault((compile_it, operands), functools.partial(compile_it, *operands))
    return True


@contextmanager
def _compiler_on() -> Iterator[None]:
    """Compile also with ``NUMBA_DISABLE_JIT``: as Python, kernels cannot run at all."""
    disabled, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, 0
    try:
        yield
    finally:
        numba.config.DISABLE_JIT = disabled


def _compile(function: F, runs_dry: bool = False, **options: Any) -> F:
    with _compiler_on():
        dispatcher = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True, **options)(
            function
        )
    dispatcher.__class__, dispatcher._compiler.__class__ = Kernel, _Compiler
    dispatcher._cache = _KernelCache(function)
    if not runs_dry:
        _kernels.append(dispatcher)
        if _noted is not None:
            dispatcher.__class__ = _NotedKernel
    return dispatcher  # type: ignore[no-any-return]


def jit(function: F) -> F:
    """Compile a single-threaded kernel or helper."""
    return _compile(function)


def jit_for_sizes(function: F) -> F:
    """Compile a kernel that tells Python what to allocate or refuse: it also runs in a dry run."""
    return _compile(function, runs_dry=True)


def task_jit(function: F) -> F:
    """Compile a task of :func:`.parallel.run_tasks`; Python cannot call it."""
    return _compile(function, no_cpython_wrapper=True)


def parallel_jit(function: F) -> F:
    """Compile a function whose ``prange`` loops run on all threads."""
    return _compile(function, parallel=True)
