"""Layer normalisation of the sum of two matrices in rows, in one pass over both.

Sums over rows are made of parts of as many rows each, added in order: the bits are the same for
any number of threads.
"""

from __future__ import annotations

import numpy as np

from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.lists.norm_rows import NormRows
from dlrmjit_kernels.lists.parts import F32
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.operands import FLOAT32, check_array, check_separate
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS, run_tasks
from dlrmjit_kernels.runtime.target import current_target

_ROWS = 64  # of a task


def add_norm_forward(
    a: F32, b: F32, gamma: F32, beta: F32, y: F32, unit: F32, inverse: F32, eps: float
) -> None:
    """``y = gamma * unit + beta`` with ``unit = (a + b - mean) * inverse`` by row.

    All matrices are (N, C); ``unit`` and ``inverse = 1 / sqrt(variance + eps)``, (N,), are for the
    gradient. Raises ShapeError for operands that do not fit.
    """
    a = check_array("a", a, FLOAT32, 2)
    rows, cols = a.shape
    b = check_array("b", b, FLOAT32, (rows, cols))
    gamma, beta = (
        check_array(n, v, FLOAT32, (cols,)) for n, v in (("gamma", gamma), ("beta", beta))
    )
    y, unit = (
        check_array(n, v, FLOAT32, (rows, cols), written=True)
        for n, v in (("y", y), ("unit", unit))
    )
    inverse = check_array("inverse", inverse, FLOAT32, (rows,), written=True)
    check_separate({"y": y, "unit": unit, "inverse": inverse}, a=a, b=b, gamma=gamma, beta=beta)
    kernel = engine.address(NormRows(eps), current_target())
    _run(
        kernel,
        a,
        b,
        unit,
        y,
        inverse,
        gamma,
        beta,
        np.empty((ceil_div(rows, _ROWS), 2, 0), np.float32),
    )


def add_norm_backward(
    dy: F32, unit: F32, inverse: F32, gamma: F32, dx: F32, dgamma: F32, dbeta: F32, eps: float
) -> None:
    """Write dx (N, C), the gradient of both summands, dgamma and dbeta (C,).

    ``unit`` and ``inverse`` are those of the forward pass. Raises ShapeError for operands that do
    not fit.
    """
    dy = check_array("dy", dy, FLOAT32, 2)
    rows, cols = dy.shape
    unit = check_array("unit", unit, FLOAT32, (rows, cols))
    inverse = check_array("inverse", inverse, FLOAT32, (rows,))
    gamma = check_array("gamma", gamma, FLOAT32, (cols,))
    dx = check_array("dx", dx, FLOAT32, (rows, cols), written=True)
    written = {"dx": dx}
    for name, vector in (("dgamma", dgamma), ("dbeta", dbeta)):
        written[name] = check_array(name, vector, FLOAT32, (cols,), written=True)
    check_separate(written, dy=dy, unit=unit, inverse=inverse, gamma=gamma)
    sums = np.zeros((ceil_div(rows, _ROWS), 2, cols), np.float32)
    kernel = engine.address(NormRows(eps, backward=True), current_target())
    _run(kernel, dy, dy, unit, dx, inverse, gamma, gamma, sums)
    dgamma[...], dbeta[...] = sums.sum(axis=0, dtype=np.float64)


@jit
def _run(
    kernel: int, a: F32, b: F32, unit: F32, y: F32, inverse: F32, gamma: F32, beta: F32, sums: F32
) -> None:
    operands = (kernel, a, b, unit, y, inverse, gamma, beta, sums)
    run_tasks(_rows_of_task, len(sums), operands, a.size < PARALLEL_MIN_ELEMENTS)


@task_jit
def _rows_of_task(
    task: int,
    kernel: int,
    a: F32,
    b: F32,
    unit: F32,
    y: F32,
    inverse: F32,
    gamma: F32,
    beta: F32,
    sums: F32,
) -> None:
    rows, cols = a.shape
    first = task * _ROWS
    skipped = 4 * first * cols
    arguments = (
        a.ctypes.data + skipped,
        b.ctypes.data + skipped,
        unit.ctypes.data + skipped,
        y.ctypes.data + skipped,
        inverse.ctypes.data + 4 * first,
        gamma.ctypes.data,
        beta.ctypes.data,
        sums[task].ctypes.data,
        min(_ROWS, rows - first),
        cols,
    )
    unsafe.call(kernel, arguments)
