"""Vectors of columns from those of quotient-remainder tables (Shi et al., arXiv 1909.02107).

A column has one table, whose vector is copied, or two, whose vectors are multiplied, added or put
next to each other. Every sample is computed by itself: no bit depends on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.errors import ConfigError, ShapeError
from dlrmjit_kernels.runtime.compile import Call, jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.operands import (
    FLOAT32,
    check_disjoint,
    check_flags,
    check_ndarray,
    describe,
    strides_overlap,
)
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS, run_tasks

F32 = NDArray[np.float32]
OPERATIONS = ("mult", "add", "concat")
_COPY, _MULTIPLY, _ADD = range(3)
_TASK_ELEMENTS = 1 << 13
_U = np.uint64  # as an index it spares the test for negative ones


class _Move(NamedTuple):
    """A row of ``width`` elements from one or two others; positions within a sample's elements."""

    kind: int
    width: int
    to: int
    left: int
    right: int = 0


class _Column(NamedTuple):
    """How the vectors of a column, at ``at`` in its samples, follow from those of its tables."""

    at: int
    first: int
    last: int
    dim: int
    is_single: bool


def bind_combine(pooled: F32, out: F32, slots: Sequence[tuple[int, ...]], operation: str) -> Call:
    """Return a call that writes the vectors ``out`` (N, S, E) of columns, from those of tables.

    Those are ``pooled`` (N, T, W); ``slots`` has the numbers of each column's one or two tables.
    For ``concat`` two tables have E / 2 columns each.

    Raises
    ------
    ConfigError
        For an unknown operation.
    ShapeError
        For arrays or slots that do not match, or that overlap.
    """
    _check(pooled, out, slots, operation)
    _check_written("vectors of columns", out)
    check_disjoint("vectors of columns", out, vectors_of_tables=pooled)
    moves = [
        move
        for column in _columns(pooled, out, slots)
        for move in _forward_moves(column, operation)
    ]
    return _bound(out, pooled, pooled, moves)


def bind_combine_gradients(
    dout: F32, pooled: F32, dpooled: F32, slots: Sequence[tuple[int, ...]], operation: str
) -> Call:
    """Return a call that writes the gradient ``dpooled`` of the vectors of tables, given ``dout``.

    What lies outside of the vectors of a table is not written. Raises as :func:`bind_combine`.
    """
    _check(pooled, dout, slots, operation)
    _check_vectors("gradients of tables", dpooled)
    if dpooled.shape != pooled.shape:
        raise ShapeError(f"gradients of tables must be {pooled.shape}, not {describe(dpooled)}")
    _check_written("gradients of tables", dpooled)
    check_disjoint("gradients of tables", dpooled, vectors=pooled, gradient=dout)
    read = _columns(pooled, dout, slots)
    written = _columns(dpooled, dout, slots)
    moves = [
        move
        for pair in zip(read, written, strict=True)
        for move in _backward_moves(*pair, operation)
    ]
    return _bound(dpooled, dout, pooled, moves)


def _check(pooled: F32, out: F32, slots: Sequence[tuple[int, ...]], operation: str) -> None:
    if operation not in OPERATIONS:
        raise ConfigError(f"vectors are combined by {', '.join(OPERATIONS)}, not {operation!r}")
    for name, array in (("vectors of tables", pooled), ("vectors of columns", out)):
        _check_vectors(name, array)
    n, tables, width = pooled.shape
    if out.shape[:2] != (n, len(slots)):
        raise ShapeError(f"vectors of columns must be ({n}, {len(slots)}, E), not {out.shape}")
    dim = out.shape[2]
    for numbers in slots:
        if len(numbers) not in (1, 2) or not all(0 <= t < tables for t in numbers):
            raise ShapeError(f"a column needs one or two of {tables} tables, not {tuple(numbers)}")
        halves = operation == "concat" and len(numbers) == 2
        if halves and dim % 2:
            raise ShapeError(f"two vectors make one of an even width, not of {dim}")
        if width < (dim // 2 if halves else dim):
            raise ShapeError(f"vectors of {dim} need tables as wide, not of {width} columns")


def _check_vectors(name: str, array: F32) -> None:
    check_ndarray(name, array)
    if array.ndim != 3 or array.dtype != FLOAT32:
        raise ShapeError(f"{name} must be float32 (samples, vectors, E), not {describe(array)}")
    check_flags(name, array)
    is_apart = all(stride >= 0 and stride % 4 == 0 for stride in array.strides)
    if array.size and not (is_apart and (array.shape[2] == 1 or array.strides[2] == 4)):
        raise ShapeError(f"{name} must have contiguous elements, not {describe(array)}")


def _check_written(name: str, array: F32) -> None:
    check_flags(name, array, written=True)
    axes = zip(array.strides, array.shape, strict=True)
    if array.size and strides_overlap([axis for axis in axes if axis[1] > 1]):
        raise ShapeError(f"{name} must not overlap, as in {describe(array)}")


def _columns(pooled: F32, out: F32, slots: Sequence[tuple[int, ...]]) -> list[_Column]:
    table, column = pooled.strides[1] // 4, out.strides[1] // 4
    return [
        _Column(s * column, t[0] * table, t[-1] * table, out.shape[2], len(t) == 1)
        for s, t in enumerate(slots)
    ]


def _forward_moves(column: _Column, operation: str) -> Iterator[_Move]:
    at, first, last, dim, is_single = column
    if is_single:
        yield _Move(_COPY, dim, at, first)
    elif operation == "concat":
        yield _Move(_COPY, dim // 2, at, first)
        yield _Move(_COPY, dim // 2, at + dim // 2, last)
    else:
        yield _Move(_MULTIPLY if operation == "mult" else _ADD, dim, at, first, last)


def _backward_moves(read: _Column, written: _Column, operation: str) -> Iterator[_Move]:
    at, first, last, dim, is_single = written
    if is_single:
        yield _Move(_COPY, dim, first, at)
    elif operation == "concat":
        yield _Move(_COPY, dim // 2, first, at)
        yield _Move(_COPY, dim // 2, last, at + dim // 2)
    elif operation == "add":
        yield _Move(_COPY, dim, first, at)
        yield _Move(_COPY, dim, last, at)
    else:
        yield _Move(_MULTIPLY, dim, first, at, read.last)
        yield _Move(_MULTIPLY, dim, last, at, read.first)


def _bound(out: F32, left: F32, right: F32, moves: list[_Move]) -> Call:
    n, width = len(out), sum(move.width for move in moves)
    if not out.size or not width:
        return partial(int)
    flat = tuple((_flat(array), array.strides[0] // 4) for array in (out, left, right))
    per_task = max(1, _TASK_ELEMENTS // width)
    return partial(_run, flat, np.array(moves, np.uint64), n, per_task, n * width)


def _flat(array: F32) -> F32:
    """Return all elements between the first and the last of an array, in one dimension."""
    last = sum(
        (count - 1) * stride for count, stride in zip(array.shape, array.strides, strict=True)
    )
    return np.lib.stride_tricks.as_strided(array, (last // 4 + 1,), (4,))


@jit
def _run(
    arrays: tuple[Any, ...], moves: NDArray[np.uint64], n: int, per_task: int, elements: int
) -> None:
    serial = elements < PARALLEL_MIN_ELEMENTS
    (out, out_row), (left, left_row), (right, right_row) = arrays
    operands = (out, out_row, left, left_row, right, right_row, moves, n, per_task)
    run_tasks(_some_samples, ceil_div(n, per_task), operands, serial)


@task_jit
def _some_samples(
    task: int,
    out: F32,
    out_row: int,
    left: F32,
    left_row: int,
    right: F32,
    right_row: int,
    moves: NDArray[np.uint64],
    n: int,
    per_task: int,
) -> None:
    for sample in range(task * per_task, min(n, (task + 1) * per_task)):
        for m in range(len(moves)):
            kind, width = moves[m, 0], moves[m, 1]
            to = _U(sample * out_row) + moves[m, 2]
            a = _U(sample * left_row) + moves[m, 3]
            b = _U(sample * right_row) + moves[m, 4]
            if kind == _U(_COPY):
                for e in range(width):
                    out[to + e] = left[a + e]
            elif kind == _U(_MULTIPLY):
                for e in range(width):
                    out[to + e] = left[a + e] * right[b + e]
            else:
                for e in range(width):
                    out[to + e] = left[a + e] + right[b + e]
