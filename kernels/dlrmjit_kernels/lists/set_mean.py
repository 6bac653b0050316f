"""The mean of the rows of a list, for each of its rows; its gradient is the same operation."""

from __future__ import annotations

import numpy as np

from dlrmjit_kernels.lists.parts import F32, I64, Lists
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.operands import FLOAT32, check_array, check_disjoint
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS, run_tasks


def set_mean(x: F32, offsets: I64, y: F32) -> None:
    """``y[i] = x[list of i].mean(0)`` for x and y (N, C); list l has rows from ``offsets[l]`` on.

    Raises ShapeError for operands that do not fit.
    """
    x = check_array("x", x, FLOAT32, 2)
    y = check_array("y", y, FLOAT32, x.shape, written=True)
    lists = Lists.of(offsets, len(x))
    check_disjoint("y", y, x=x, offsets=lists.offsets)
    _set_mean(x, lists.offsets, lists.parts, y)


@jit
def _set_mean(x: F32, offsets: I64, parts: I64, y: F32) -> None:
    run_tasks(_of_part, parts.size - 1, (x, offsets, parts, y), x.size < PARALLEL_MIN_ELEMENTS)


@task_jit
def _of_part(part: int, x: F32, offsets: I64, parts: I64, y: F32) -> None:
    mean = np.empty(x.shape[1], np.float32)
    for i in range(parts[part], parts[part + 1]):
        mean[:] = 0
        for row in range(offsets[i], offsets[i + 1]):
            _add(mean, x[row])
        _scale(mean, np.float32(1) / np.float32(offsets[i + 1] - offsets[i]))
        for row in range(offsets[i], offsets[i + 1]):
            y[row] = mean


@jit
def _add(total: F32, row: F32) -> None:
    for k in range(total.size):
        total[k] += row[k]


@jit
def _scale(row: F32, factor: np.float32) -> None:
    for k in range(row.size):
        row[k] *= factor
