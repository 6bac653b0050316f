"""Arrays that end at an unreadable page, to see any access outside them at once.

    python -m tests.kernels.guard [--examples N] [PATH ...]

runs the tests of the kernels (or those in PATH) with every buffer of the kernels and every array
that a test passes to a public function on such pages, and N examples of every property. An access
beyond an array then ends the process with a segmentation fault, and so does a write to an array
that a function should only read; bytes before an array are canaries, compared after every call.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import importlib
import inspect
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

PAGE = mmap.PAGESIZE
CANARY = 0xA5
_NONE, _READ, _READ_WRITE = 0, 1, 3
_libc = ctypes.CDLL(None, use_errno=True)
ROOT = Path(__file__).parents[2]


class GuardedBytes:
    """``nbytes`` that end at an unreadable page; another one and canaries are before them."""

    def __init__(self, nbytes: int) -> None:
        pages = max(1, -(-nbytes // PAGE))
        self._mapping = mmap.mmap(-1, (pages + 2) * PAGE)
        whole = np.frombuffer(self._mapping, np.uint8)
        self._begin, end = int(whole.ctypes.data) + PAGE, (pages + 1) * PAGE
        self._size = pages * PAGE
        self.canary = whole[PAGE : end - nbytes]
        self.canary[...] = CANARY
        self.data = whole[end - nbytes : end]
        self._protect(self._begin - PAGE, PAGE, _NONE)
        self._protect(self._begin + self._size, PAGE, _NONE)

    def set_writable(self, writable: bool) -> None:
        """Let the pages be written, or end the process that writes them."""
        self._protect(self._begin, self._size, _READ_WRITE if writable else _READ)

    def check(self, name: str) -> None:
        """Fail if a byte before the array was written."""
        assert np.all(self.canary == CANARY), f"bytes before {name} were written"

    def _protect(self, address: int, size: int, mode: int) -> None:
        if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), mode):
            raise OSError(ctypes.get_errno(), "mprotect")


def guarded_empty(shape: int | tuple[int, ...], dtype: Any = np.float32) -> Any:
    """Return an uninitialised array that ends at an unreadable page."""
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return GuardedBytes(nbytes).data.view(dtype).reshape(shape)


def guarded(array: Any) -> Any:
    """Return a C-contiguous copy that ends at an unreadable page."""
    copy = guarded_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


class _Span:
    """The memory of arrays that overlap each other, copied to guarded pages for one call."""

    def __init__(self, arrays: list[Any]) -> None:
        bounds = [np.lib.array_utils.byte_bounds(array) for array in arrays]
        self.low = min(low for low, _ in bounds)
        self.nbytes = max(high for _, high in bounds) - self.low
        self.arrays = arrays
        self.guard = GuardedBytes(self.nbytes)
        self._original = (ctypes.c_uint8 * self.nbytes).from_address(self.low)
        ctypes.memmove(self.guard.data.ctypes.data, self.low, self.nbytes)

    def copy_of(self, array: Any) -> Any:
        """Return the array of the same shape and strides in the guarded copy."""
        offset = array.ctypes.data - self.low
        copy = np.ndarray(array.shape, array.dtype, self.guard.data, offset, array.strides)
        copy.flags.writeable = array.flags.writeable
        return copy

    def copy_back(self, is_written: bool) -> None:
        """Write the bytes back to the arrays, padding between them included.

        Not of a span that the call only reads: it may be a guarded copy of a call around this one.
        """
        if is_written and any(array.flags.writeable for array in self.arrays):
            ctypes.memmove(self.low, self.guard.data.ctypes.data, self.nbytes)


def _spans(arrays: list[Any]) -> list[_Span]:
    """Group arrays that overlap, so that they do in the copies too."""
    used = [array for array in arrays if array.size]
    used.sort(key=lambda array: np.lib.array_utils.byte_bounds(array)[0])
    groups: list[list[Any]] = []
    end = 0
    for array in used:
        low, high = np.lib.array_utils.byte_bounds(array)
        if groups and low < end:
            groups[-1].append(array)
        else:
            groups.append([array])
        end = max(end, high)
    return [_Span(group) for group in groups]


class GuardedCall:
    """Replaces the arrays of a call by guarded copies; ``written`` names those it may write."""

    def __init__(self, function: Callable[..., Any], written: frozenset[str]) -> None:
        self._function, self._written = function, written
        self._signature = inspect.signature(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function on the copies, check the canaries, and copy the outputs back."""
        bound = self._signature.bind(*args, **kwargs)
        spans = _spans([a for value in bound.arguments.values() for a in _arrays(value)])
        is_written = {
            id(a)
            for name in self._written & bound.arguments.keys()
            for a in _arrays(bound.arguments[name])
        }
        arguments = {n: _moved(value, spans) for n, value in bound.arguments.items()}
        bound.arguments.update(arguments)
        changes = [any(id(array) in is_written for array in span.arrays) for span in spans]
        for span, is_changed in zip(spans, changes, strict=True):
            span.guard.set_writable(is_changed)
        try:
            result = self._function(*bound.args, **bound.kwargs)
        finally:
            for span, is_changed in zip(spans, changes, strict=True):
                span.guard.check(self._function.__name__)
                span.guard.set_writable(True)
                span.copy_back(is_changed)
        return _original(result, args, kwargs, arguments, self._signature)


def _original(result: Any, args: Any, kwargs: Any, moved: Any, signature: Any) -> Any:
    """Return the caller's array where the function returned its copy."""
    given = signature.bind(*args, **kwargs).arguments
    for name, value in moved.items():
        if result is value:
            return given[name]
    return result


def _arrays(value: Any) -> Iterator[Any]:
    from dlrmjit_kernels.matrix.matrix import Matrix

    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, Matrix):
        yield value.data
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _arrays(item)


def _moved(value: Any, spans: list[_Span]) -> Any:
    from dlrmjit_kernels.matrix.matrix import Matrix

    if isinstance(value, np.ndarray):
        for span in spans:
            if any(array is value for array in span.arrays):
                return span.copy_of(value)
        return value
    if isinstance(value, Matrix):
        data = value.data
        return Matrix(_moved(data, spans), value.layout)
    if isinstance(value, (list, tuple)) and any(True for _ in _arrays(value)):
        return type(value)(_moved(item, spans) for item in value)
    return value


WRITTEN = {
    "dlrmjit_kernels.matmul.gemm": {"gemm": {"out"}},
    "dlrmjit_kernels.layers.fully_connected": {
        "fc_forward": {"y", "slopes"},
        "fc_backward_data": {"dx"},
        "fc_backward_weights": {"dw", "db"},
    },
    "dlrmjit_kernels.layers.interaction": {
        "interaction_forward": {"out"},
        "interaction_backward": {"dfeatures"},
    },
    "dlrmjit_kernels.layers.loss": {
        "probabilities": {"p"},
        "loss_forward": set(),
        "loss_gradient": {"p", "dlogits"},
    },
    "dlrmjit_kernels.layers.elementwise": {
        "scale": {"x"},
        "sum_of_squares": set(),
        "relu_backward": {"dx"},
        "sigmoid_backward": {"dx"},
    },
    "dlrmjit_kernels.layers.dropout": {"dropout": {"y"}},
    "dlrmjit_kernels.layers.batch_norm": {
        "column_moments": {"mean", "variance"},
        "normalise_relu": {"y"},
        "normalise": {"y", "slopes"},
        "gradient_sums": set(),
        "input_gradient": {"dy"},
        "batch_norm_backward": {"dy", "dgamma", "dbeta"},
    },
    "dlrmjit_kernels.layers.layer_norm": {
        "layer_norm_forward": {"y", "mean", "inverse"},
        "layer_norm_backward": {"dy", "dgamma", "dbeta"},
    },
    "dlrmjit_kernels.layers.dense_optimizers": {
        "sgd_step": {"p"},
        "adagrad_step": {"p", "state"},
    },
    "dlrmjit_kernels.embedding.embedding_bag": {"embedding_bag": {"out"}},
    "dlrmjit_kernels.auc": {"ranking_metrics": set(), "ranking_sums": set()},
    "dlrmjit_kernels.layers.list_loss": {"list_loss_gradient": {"dscores"}},
    "dlrmjit_kernels.list_metrics": {"list_metrics": set(), "list_ranks": set()},
}
"""Every function that takes arrays, by module, and the operands that it writes."""
METHODS = {
    "check": set(),
    "lookup": {"out"},
    "apply_gradient": set(),
    "accumulate_gradient": {"dense"},
}
"""The methods of EmbeddingTables, whose tables are guarded where they are allocated."""


@contextmanager
def guarded_kernels() -> Iterator[None]:
    """Guard all buffers of the kernels and all arrays passed to their functions."""
    undo: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, value: Any) -> None:
        undo.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    for module_name, functions in WRITTEN.items():
        module = importlib.import_module(module_name)
        for name, written in functions.items():
            replace(module, name, _wrapped(getattr(module, name), frozenset(written)))
    _guard_buffers(replace)
    from dlrmjit_kernels.embedding.tables import EmbeddingTables

    for name, written in METHODS.items():
        replace(EmbeddingTables, name, _wrapped(getattr(EmbeddingTables, name), frozenset(written)))
    try:
        yield
    finally:
        for owner, name, value in reversed(undo):
            setattr(owner, name, value)


def _wrapped(function: Callable[..., Any], written: frozenset[str]) -> Callable[..., Any]:
    call = GuardedCall(function, written)

    @functools.wraps(function)
    def guarded_function(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    return guarded_function


def _guard_buffers(replace: Callable[[Any, str, Any], None]) -> None:
    """Let every buffer end at an unreadable page, and have no element to spare."""
    from dlrmjit_kernels.embedding import storage
    from dlrmjit_kernels.matrix import matrix
    from dlrmjit_kernels.runtime import buffers, workspace

    allocate = buffers.allocate

    def guarded_allocate(nbytes: int, path: Any = None) -> Any:
        if path is not None:
            return allocate(nbytes, path)
        buffers.require_memory(nbytes)
        guard = GuardedBytes(nbytes)
        guard.data[...] = 0
        return buffers.Buffer(guard.data, "plain")

    replace(buffers, "allocate", guarded_allocate)
    replace(buffers, "aligned_empty", guarded_empty)
    replace(matrix, "aligned_floats", guarded_empty)
    replace(matrix, "aligned_empty", guarded_empty)
    replace(matrix, "allocate", guarded_allocate)
    replace(workspace, "_capacity", lambda size: size)
    for name in ("matmul.gemm", "matrix.scratch"):
        module = importlib.import_module(f"dlrmjit_kernels.{name}")
        replace(module, "aligned_floats", guarded_empty)
    assert storage.buffers is buffers


def pytest_configure(config: Any) -> None:
    """Guard the kernels before a test imports their functions: this module is a pytest plugin."""
    guard = guarded_kernels()
    guard.__enter__()
    config.add_cleanup(lambda: guard.__exit__(None, None, None))
    examples = os.environ.get("DLRMJIT_GUARD_EXAMPLES")
    if examples:
        from hypothesis import settings

        settings.register_profile("guard", deadline=None, max_examples=int(examples))
        config._guard_profile = "guard"


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Use as many examples of properties as were asked for, whatever the tests' own set-up says."""
    if hasattr(config, "_guard_profile"):
        from hypothesis import settings

        settings.load_profile(config._guard_profile)


PATHS = ("matmul", "matrix", "layers", "embedding", "test_auc.py", "test_list_metrics.py")


def main() -> int:
    """Run pytest with guarded kernels in a process of its own; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=200, help="examples of every property")
    parser.add_argument("paths", nargs="*", help="tests to run; all of the kernels by default")
    options = parser.parse_args()
    paths = options.paths or [str(ROOT / "tests" / "kernels" / path) for path in PATHS]
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.kernels.guard",
    ]
    environment = {**os.environ, "DLRMJIT_GUARD_EXAMPLES": str(options.examples)}
    status = subprocess.run([*command, *paths], cwd=ROOT, env=environment, check=False).returncode
    if status < 0:
        print(f"ended by signal {-status}: an access outside an array, see above")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
