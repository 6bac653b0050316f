"""Calls of kernels whose arrays are copied to memory that ends at an unreadable page.

An access beyond an array ends the process with a segmentation fault, and so does a write to an
array that the function should only read; bytes before an array are canaries, compared after every
call.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import inspect
import mmap
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from dlrmjit_kernels.runtime.compile import Kernel

PAGE = mmap.PAGESIZE
CANARY = 0xA5
UNSET = 0xFF
_NONE, _READ, _READ_WRITE = 0, 1, 3
_libc = ctypes.CDLL(None, use_errno=True)


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
    """Return an uninitialised array that ends at an unreadable page: floats are not numbers."""
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    guard = GuardedBytes(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    guard.data[...] = UNSET
    return guard.data.view(dtype).reshape(shape)


def guarded(array: Any) -> Any:
    """Return a C-contiguous copy that ends at an unreadable page."""
    copy = guarded_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


class _Span:
    """The memory of arrays that overlap each other, with a copy of it on guarded pages."""

    def __init__(self, arrays: list[Any], written: set[int]) -> None:
        bounds = [np.lib.array_utils.byte_bounds(array) for array in arrays]
        self._low = min(low for low, _ in bounds)
        self._nbytes = max(high for _, high in bounds) - self._low
        self.arrays = arrays
        self._is_written = any(id(array) in written for array in arrays)
        self._is_writable = any(array.flags.writeable for array in arrays)
        self._guard = GuardedBytes(self._nbytes)
        self._original = np.frombuffer(
            (ctypes.c_uint8 * self._nbytes).from_address(self._low), "u1"
        )

    def copy_of(self, array: Any) -> Any:
        """Return the array of the same shape and strides in the guarded copy."""
        offset = array.ctypes.data - self._low
        copy = np.ndarray(array.shape, array.dtype, self._guard.data, offset, array.strides)
        copy.flags.writeable = array.flags.writeable
        return copy

    def begin(self) -> None:
        """Copy the arrays to the guarded pages, which may be written only if they may."""
        self._guard.set_writable(True)
        self._guard.data[...] = self._original
        self._guard.set_writable(self._is_written)

    def end(self, name: str) -> None:
        """Check the canaries, and copy what was written back, padding between arrays included.

        Bytes that have not changed are not written: they may be those of a call around this one,
        which must only read them.
        """
        self._guard.check(name)
        self._guard.set_writable(True)
        if self._is_writable and not np.array_equal(self._original, self._guard.data):
            ctypes.memmove(self._low, self._guard.data.ctypes.data, self._nbytes)


def _spans(arrays: list[Any], written: set[int]) -> list[_Span]:
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
    return [_Span(group, written) for group in groups]


class _GuardedOperands:
    """Operands by name, those of ``written`` to be written, and copies on guarded pages."""

    around = threading.local()  # ``calls`` around the current one

    def __init__(self, name: str, operands: dict[str, Any], written: frozenset[str]) -> None:
        self._name = name
        arrays = {key: list(arrays_of(value)) for key, value in operands.items()}
        changed = {id(array) for key in written & arrays.keys() for array in arrays[key]}
        self._spans = _spans([array for found in arrays.values() for array in found], changed)
        copies = _Copies(self._spans)
        self.copies = {key: copies.of(value) for key, value in operands.items()}

    def run(self, call: Callable[[], Any]) -> Any:
        """Call a function of the copies, and copy back what it has written."""
        for span in self._spans:
            span.begin()
        self.around.calls = _calls_around() + 1
        try:
            return call()
        finally:
            self.around.calls -= 1
            for span in self._spans:
                span.end(self._name)


def _calls_around() -> int:
    return getattr(_GuardedOperands.around, "calls", 0)


def guarded_call(function: Callable[..., Any], written: frozenset[str]) -> Callable[..., Any]:
    """Return ``function`` with its operands on guarded pages; it may write those of ``written``.

    The call that a ``bind_...`` function returns has the operands of that function. Within another
    guarded call it returns what it returns otherwise, which the other one may join with more; its
    operands are on guarded pages already.
    """
    signature = inspect.signature(function)
    binds = function.__name__.startswith("bind_")

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if binds and _calls_around():
            return function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        given = dict(bound.arguments)
        operands = _GuardedOperands(function.__name__, given, written)
        bound.arguments.update(operands.copies)
        result = operands.run(lambda: function(*bound.args, **bound.kwargs))
        if binds:
            return functools.partial(operands.run, result)
        for name, copy in operands.copies.items():
            if result is copy:
                return given[name]
        return result

    return call


class GuardedLoop(Kernel):  # type: ignore[misc]
    """A compiled loop whose arrays are on guarded pages; it may write all of them.

    Operands that are stored in a frame stay as they are: the kernel that reads them there runs
    later, when copies would be gone.
    """

    def __call__(self, *args: Any) -> Any:
        if next(iter(inspect.signature(self.py_func).parameters), "") == "frame":
            return super().__call__(*args)
        named = {str(i): argument for i, argument in enumerate(args)}
        operands = _GuardedOperands(self.py_func.__name__, named, frozenset(named))
        return operands.run(lambda: super(GuardedLoop, self).__call__(*operands.copies.values()))


def arrays_of(value: Any) -> Iterator[Any]:
    """Yield the arrays of an operand: itself, a matrix, or what has several of them."""
    from dlrmjit_kernels.matrix.matrix import Matrix

    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, Matrix):
        yield value.data
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from arrays_of(item)
    elif _is_record(value):
        for field in dataclasses.fields(value):
            if field.init:
                yield from arrays_of(getattr(value, field.name))


def _is_record(value: Any) -> bool:
    """Return whether ``value`` is an immutable record of operands, such as lookups."""
    return dataclasses.is_dataclass(value) and type(value).__dataclass_params__.frozen


class _Copies:
    """Copies of operands whose arrays are those of spans; the same object has the same copy."""

    def __init__(self, spans: list[_Span]) -> None:
        self._spans = spans
        self._known: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        """Return the copy of an operand, or what has no array itself."""
        if id(value) not in self._known:
            self._known[id(value)] = (
                self._copy(value) if any(True for _ in arrays_of(value)) else value
            )
        return self._known[id(value)]

    def _copy(self, value: Any) -> Any:
        from dlrmjit_kernels.matrix.matrix import Matrix

        if isinstance(value, np.ndarray):
            spans = (span for span in self._spans if any(array is value for array in span.arrays))
            return next((span.copy_of(value) for span in spans), value)
        if isinstance(value, Matrix):
            return Matrix(self.of(value.data), value.layout)
        if isinstance(value, (list, tuple)):
            items = [self.of(item) for item in value]
            return value._make(items) if hasattr(value, "_make") else type(value)(items)
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(
            value, **{name: self.of(getattr(value, name)) for name in fields}
        )
