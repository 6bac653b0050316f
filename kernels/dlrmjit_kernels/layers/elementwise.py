"""Operations that touch each element once: on flat arrays, and on matrices of any layout.

Activations are fused with matrix products, except the gradient of the last layer's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.layers.column_ops import bind_column_op
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.row_access import Strides, position, run_length, strides_of
from dlrmjit_kernels.microkernels.column_ops import ColumnOp
from dlrmjit_kernels.runtime.compile import Call, jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.operands import FLOAT32, check_array
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, PARALLEL_MIN_ELEMENTS, run_tasks

F32 = NDArray[np.float32]
Real = Any  # a Python float or a NumPy scalar, which are one to a compiled kernel

RUN = 4096
"""Elements per task of a flat kernel: 16 KiB, so that an operand's piece stays in the L1 cache."""


def scale(x: F32, factor: float) -> None:
    """``x *= factor``; x flat float32."""
    x = check_array("x", x, FLOAT32, 1, written=True)
    _scale(x, np.float32(factor))


def sum_of_squares(x: Matrix) -> float:
    """Return the sum of the squares of all elements, without padding, in double precision."""
    if x.cols == 0:
        return 0.0
    row_sums = np.empty(x.rows)
    _row_squares(check_array("x", x.data, FLOAT32, 1), strides_of(x.layout), x.cols, row_sums)
    return float(row_sums.sum())


def relu_backward(y: Matrix, dy: Matrix, dx: Matrix) -> None:
    """``dx = dy * (y > 0)`` from the output y of the forward; dx may be dy."""
    bind_relu_backward(y, dy, dx)()


def bind_relu_backward(y: Matrix, dy: Matrix, dx: Matrix) -> Call:
    """:func:`relu_backward` as a call to repeat; the matrices must not move in memory."""
    return bind_activation_backward(y, dy, dx, Activation.RELU)


def sigmoid_backward(y: Matrix, dy: Matrix, dx: Matrix) -> None:
    """``dx = dy * y * (1 - y)`` from the output y of the forward; dx may be dy."""
    bind_sigmoid_backward(y, dy, dx)()


def bind_sigmoid_backward(y: Matrix, dy: Matrix, dx: Matrix) -> Call:
    """:func:`sigmoid_backward` as a call to repeat; the matrices must not move in memory."""
    return bind_activation_backward(y, dy, dx, Activation.SIGMOID)


def bind_activation_backward(y: Matrix, dy: Matrix, dx: Matrix, activation: Activation) -> Call:
    """Return the gradient dx before an activation as a call to repeat; dx may be dy.

    ``y`` is its output, or its derivatives if it ``has_slopes``. The matrices must not move in
    memory.
    """
    return bind_column_op(ColumnOp.SLOPE, (dy, y, dx), activation=activation)


@jit
def _scale(x: F32, factor: np.float32) -> None:
    run_tasks(_scale_run, ceil_div(x.size, RUN), (x, factor), x.size < PARALLEL_MIN_ELEMENTS)


@task_jit
def _scale_run(task: int, x: F32, factor: np.float32) -> None:
    for i in range(task * RUN, min(x.size, (task + 1) * RUN)):
        x[i] *= factor


@jit
def _row_squares(x: F32, xs: Strides, cols: int, partial: NDArray[np.float64]) -> None:
    run_tasks(
        _squares_of_rows, _runs_of_rows(len(partial), cols), (x, xs, cols, partial), ALL_THREADS
    )


@task_jit
def _squares_of_rows(
    task: int, x: F32, xs: Strides, cols: int, partial: NDArray[np.float64]
) -> None:
    for row in range(*_rows_of(task, len(partial), cols)):
        total, column = 0.0, 0
        while column < cols:
            run = run_length(xs, column, cols - column)
            start = position(xs, row, column)
            for k in range(run):
                value = np.float64(x[start + k])
                total += value * value
            column += run
        partial[row] = total


@jit
def sigmoid(x: Real) -> Real:
    """Return the logistic function of a float32, rounded once from double precision."""
    return np.float32(1.0 / (1.0 + math.exp(-np.float64(x))))


@jit
def _rows_of_run(cols: int) -> int:
    return max(1, RUN // cols)


@jit
def _runs_of_rows(rows: int, cols: int) -> int:
    """Return the number of tasks of a matrix, of about ``RUN`` elements in whole rows."""
    return ceil_div(rows, _rows_of_run(cols))


@jit
def _rows_of(task: int, rows: int, cols: int) -> tuple[int, int]:
    first = task * _rows_of_run(cols)
    return first, min(rows, first + _rows_of_run(cols))
