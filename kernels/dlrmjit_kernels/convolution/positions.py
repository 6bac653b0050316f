"""Weighted sums over the positions of a sequence of vectors: the vertical filters of Caser.

Tang and Wang (WSDM 2018, arXiv 1809.07426). A task is a fixed number of samples, whose parts of the
gradient of the filters are added in order: the bits are the same for any number of threads.
"""

from __future__ import annotations

import numpy as np

from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.matrix.matrix import Floats
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.operands import (
    FLOAT32,
    check_array,
    check_disjoint,
    check_separate,
)
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS, run_tasks

_SAMPLES = 64
"""Samples of a task."""


def position_sums(x: Floats, w: Floats, y: Floats) -> None:
    """``y[n, v] = sum over l of w[v, l] * x[n, l]`` for x (N, L, E), w (V, L) and y (N, V, E).

    Raises ShapeError for operands that do not fit.
    """
    x, w = _checked(x, w, y)
    y = check_array("y", y, FLOAT32, y.shape, written=True)
    check_disjoint("y", y, x=x, w=w)
    _forward(x, w, y)


def position_sums_backward(x: Floats, w: Floats, dy: Floats, dx: Floats, dw: Floats) -> None:
    """Add the gradient of x (N, L, E) to dx, and write that of w (V, L) to dw.

    Raises ShapeError for operands that do not fit.
    """
    x, w = _checked(x, w, dy)
    dy = check_array("dy", dy, FLOAT32, dy.shape)
    dx = check_array("dx", dx, FLOAT32, x.shape, written=True)
    dw = check_array("dw", dw, FLOAT32, w.shape, written=True)
    check_separate({"dx": dx, "dw": dw}, x=x, w=w, dy=dy)
    parts = np.zeros((ceil_div(len(x), _SAMPLES), *w.shape), np.float32)
    _backward(x, w, dy, dx, parts)
    dw[...] = parts.sum(axis=0, dtype=np.float64)


def _checked(x: Floats, w: Floats, y: Floats) -> tuple[Floats, Floats]:
    x, w = check_array("x", x, FLOAT32, 3), check_array("w", w, FLOAT32, 2)
    if w.shape[1] != x.shape[1]:
        raise ShapeError(f"filters of {w.shape[1]} positions do not fit sequences of {x.shape[1]}")
    check_array("y", y, FLOAT32, (len(x), len(w), x.shape[2]))
    return x, w


@jit
def _forward(x: Floats, w: Floats, y: Floats) -> None:
    tasks = ceil_div(len(x), _SAMPLES)
    run_tasks(_sums_of, tasks, (x, w, y), x.size < PARALLEL_MIN_ELEMENTS)


@task_jit
def _sums_of(task: int, x: Floats, w: Floats, y: Floats) -> None:
    for n in range(task * _SAMPLES, min(len(x), (task + 1) * _SAMPLES)):
        for v in range(w.shape[0]):
            for e in range(x.shape[2]):
                y[n, v, e] = 0
            for k in range(w.shape[1]):
                _add_scaled(y[n, v], w[v, k], x[n, k])


@jit
def _add_scaled(total: Floats, factor: np.float32, row: Floats) -> None:
    for e in range(row.size):
        total[e] += factor * row[e]


@jit
def _backward(x: Floats, w: Floats, dy: Floats, dx: Floats, parts: Floats) -> None:
    run_tasks(_gradients_of, len(parts), (x, w, dy, dx, parts), x.size < PARALLEL_MIN_ELEMENTS)


@task_jit
def _gradients_of(task: int, x: Floats, w: Floats, dy: Floats, dx: Floats, parts: Floats) -> None:
    products = np.zeros(x.shape[2], np.float32)
    for v in range(w.shape[0]):
        for k in range(w.shape[1]):
            products[:] = 0
            for n in range(task * _SAMPLES, min(len(x), (task + 1) * _SAMPLES)):
                _add_scaled(dx[n, k], w[v, k], dy[n, v])
                _add_products(products, x[n, k], dy[n, v])
            total = 0.0
            for e in range(products.size):
                total += products[e]
            parts[task, v, k] = total


@jit
def _add_products(total: Floats, a: Floats, b: Floats) -> None:
    for e in range(a.size):
        total[e] += a[e] * b[e]
