"""Layer normalisation: every row of a matrix to mean 0 and variance 1 (Ba, Kiros and Hinton 2016).

Sums are in double precision. Those over rows are made of parts of as many rows each, added in
order: the bits are the same for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.layers.column_ops import check_in_place
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.row_access import Strides, row_start, strides_of
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.operands import (
    FLOAT32,
    FLOAT64,
    check_array,
    check_disjoint,
    check_separate,
)
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS, run_tasks

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_ROWS = 32  # of a task


def layer_norm_forward(
    x: Matrix, y: Matrix, gamma: F32, beta: F32, mean: F64, inverse: F64, eps: float
) -> None:
    """``y = gamma * (x - mean) * inverse + beta`` by row; may be in place.

    ``mean`` (N,) of every row and ``inverse = 1 / sqrt(variance + eps)``, float64, are written.
    """
    _check_shapes(x, y)
    check_in_place((x,), y)
    for name, vector in (("gamma", gamma), ("beta", beta)):
        check_array(name, vector, FLOAT32, (x.cols,))
    for name, moments in (("mean", mean), ("inverse", inverse)):
        check_array(name, moments, FLOAT64, (x.rows,), written=True)
    written: dict[str, NDArray[Any]] = {"y": y.data, "mean": mean, "inverse": inverse}
    check_separate(written, gamma=gamma, beta=beta)
    for name in ("mean", "inverse"):
        check_disjoint(name, written[name], x=x.data)
    if x.rows and x.cols:
        _forward(*_flat(x), *_flat(y), x.cols, gamma, beta, mean, inverse, eps)


def layer_norm_backward(
    x: Matrix, dy: Matrix, gamma: F32, mean: F64, inverse: F64, dgamma: F32, dbeta: F32
) -> None:
    """Write dgamma and dbeta (C,), and dx over dy; moments are those that the forward wrote."""
    _check_shapes(x, dy)
    check_in_place((x,), dy)
    check_array("gamma", gamma, FLOAT32, (x.cols,))
    for name, vector in (("dgamma", dgamma), ("dbeta", dbeta)):
        check_array(name, vector, FLOAT32, (x.cols,), written=True)
    for name, moments in (("mean", mean), ("inverse", inverse)):
        check_array(name, moments, FLOAT64, (x.rows,))
    written: dict[str, NDArray[Any]] = {"dgamma": dgamma, "dbeta": dbeta, "dy": dy.data}
    check_separate(written, gamma=gamma, mean=mean, inverse=inverse)
    for name in ("dgamma", "dbeta"):
        check_disjoint(name, written[name], x=x.data)
    sums = np.zeros((ceil_div(x.rows, _ROWS), 2, x.cols))
    if x.rows and x.cols:
        _backward(*_flat(x), *_flat(dy), x.cols, gamma, mean, inverse, sums)
    dbeta[...], dgamma[...] = sums.sum(axis=0)


def _check_shapes(x: Matrix, other: Matrix) -> None:
    if (x.rows, x.cols) != (other.rows, other.cols):
        raise ShapeError(
            f"matrices of one shape are needed here, not {x.rows} x {x.cols} and "
            f"{other.rows} x {other.cols}"
        )


def _flat(matrix: Matrix) -> tuple[NDArray[Any], Strides]:
    return check_array("a matrix", matrix.data, FLOAT32, 1), strides_of(matrix.layout)


@jit
def _forward(
    x: F32,
    xs: Strides,
    y: F32,
    ys: Strides,
    cols: int,
    gamma: F32,
    beta: F32,
    mean: F64,
    inverse: F64,
    eps: float,
) -> None:
    rows = len(mean)
    operands = (x, xs, y, ys, cols, gamma, beta, mean, inverse, eps)
    run_tasks(_forward_rows, ceil_div(rows, _ROWS), operands, rows * cols < PARALLEL_MIN_ELEMENTS)


@task_jit
def _forward_rows(
    task: int,
    x: F32,
    xs: Strides,
    y: F32,
    ys: Strides,
    cols: int,
    gamma: F32,
    beta: F32,
    mean: F64,
    inverse: F64,
    eps: float,
) -> None:
    for row in range(task * _ROWS, min(len(mean), (task + 1) * _ROWS)):
        at, to = row_start(xs, row), row_start(ys, row)
        total = 0.0
        for k in range(cols):
            total += np.float64(x[_index(xs, at, k)])
        middle, squares = total / cols, 0.0
        for k in range(cols):
            centred = np.float64(x[_index(xs, at, k)]) - middle
            squares += centred * centred
        factor = 1.0 / np.sqrt(squares / cols + eps)
        mean[row], inverse[row] = middle, factor
        for k in range(cols):
            unit = (np.float64(x[_index(xs, at, k)]) - middle) * factor
            y[_index(ys, to, k)] = np.float32(unit * gamma[k] + beta[k])


@jit
def _backward(
    x: F32,
    xs: Strides,
    dy: F32,
    ds: Strides,
    cols: int,
    gamma: F32,
    mean: F64,
    inverse: F64,
    sums: F64,
) -> None:
    operands = (x, xs, dy, ds, cols, gamma, mean, inverse, sums)
    run_tasks(_backward_rows, len(sums), operands, len(mean) * cols < PARALLEL_MIN_ELEMENTS)


@task_jit
def _backward_rows(
    task: int,
    x: F32,
    xs: Strides,
    dy: F32,
    ds: Strides,
    cols: int,
    gamma: F32,
    mean: F64,
    inverse: F64,
    sums: F64,
) -> None:
    """Write dx of some rows over dy, and the sums over them of dy and of dy times x normalised."""
    for row in range(task * _ROWS, min(len(mean), (task + 1) * _ROWS)):
        at, to = row_start(xs, row), row_start(ds, row)
        middle, factor = mean[row], inverse[row]
        plain, by_unit = 0.0, 0.0
        for k in range(cols):
            unit = (np.float64(x[_index(xs, at, k)]) - middle) * factor
            given = np.float64(dy[_index(ds, to, k)])
            sums[task, 0, k] += given
            sums[task, 1, k] += given * unit
            plain += given * gamma[k]
            by_unit += given * gamma[k] * unit
        for k in range(cols):
            unit = (np.float64(x[_index(xs, at, k)]) - middle) * factor
            along = np.float64(dy[_index(ds, to, k)]) * gamma[k] - plain / cols
            dy[_index(ds, to, k)] = np.float32(factor * (along - unit * by_unit / cols))


@jit
def _index(strides: Strides, start: int, column: int) -> int:
    """Return the offset of a column of the row that starts at ``start``."""
    _, block_cols, _, block_stride, _ = strides
    block = column // block_cols
    return start + block * block_stride + column - block * block_cols
