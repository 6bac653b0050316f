"""The products of all pairs of a sample's vectors, as one number or element by element.

:mod:`dlrmjit_kernels.embedding.pair_sums` has them of rows that nothing else needs; here the
vectors (N, F, E) are in memory, because other operations read them too. Every sample is computed by
itself, so no bit depends on the number of threads.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen.engine import address
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.microkernels.pairs import PairVectorsSpec
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.operands import (
    FLOAT32,
    check_array,
    check_flags,
    check_ndarray,
    check_separate,
    describe,
    strides_overlap,
)
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS, run_tasks
from dlrmjit_kernels.runtime.target import Target, current_target
from dlrmjit_kernels.runtime.unsafe import call

F32 = NDArray[np.float32]
_TASK_ELEMENTS = 1 << 13


def pair_products(x: F32, sums: F32, y: F32) -> None:
    """Write the sums (N, E) of vectors ``x`` (N, F, E), and their products by pairs.

    These are y (N, 1), summed over the elements, or (N, E). The vectors of a sample may have any
    distance, samples too; their elements are contiguous.

    Raises
    ------
    ShapeError
        For arrays of other shapes or dtypes, or that overlap.
    """
    _check("the vectors", x, x)
    _check_results(x, sums, y, y_written=True)
    check_separate({"sums": sums, "products": y}, vectors=x)
    _run(False, x, x, sums, y)


def pair_gradients(x: F32, sums: F32, dy: F32, dx: F32) -> None:
    """Write the gradient ``dx`` (N, F, E) of vectors, given that of their products, ``dy``.

    ``sums`` are those of :func:`pair_products`; dy (N, 1) or (N, E). Raises as it does.
    """
    _check("the vectors", x, x)
    _check("the gradient of the vectors", dx, x, written=True)
    _check_results(x, sums, dy)
    check_separate({"the gradient of the vectors": dx}, vectors=x, sums=sums, gradient=dy)
    _run(True, x, dx, sums, dy)


def _check(name: str, array: F32, like: F32, written: bool = False) -> None:
    check_ndarray(name, array)
    if array.ndim != 3 or array.shape != like.shape or array.dtype != FLOAT32:
        wanted = f"{like.shape}" if like.ndim == 3 else "(samples, vectors, E)"
        raise ShapeError(f"{name} must be float32 {wanted}, not {describe(array)}")
    check_flags(name, array, written)
    if array.size and array.shape[2] > 1 and array.strides[2] != 4:
        raise ShapeError(f"{name} must have contiguous elements, not {describe(array)}")
    axes = zip(array.strides, array.shape, strict=True)
    if written and array.size and strides_overlap([axis for axis in axes if axis[1] > 1]):
        raise ShapeError(f"{name} must not overlap, as in {describe(array)}")


def _check_results(x: F32, sums: F32, y: F32, y_written: bool = False) -> None:
    n, _, dim = x.shape
    check_array("sums (samples, E)", sums, FLOAT32, (n, dim), written=y_written)
    check_ndarray("products", y)
    width = dim if y.ndim == 2 and y.shape[1] == dim else 1
    check_array("products (samples, 1 or E)", y, FLOAT32, (n, width), written=y_written)


def _run(backward: bool, x: F32, dx: F32, sums: F32, y: F32) -> None:
    n, count, dim = x.shape
    if not n or not dim:
        return
    kernel = _kernel(current_target(), dim, y.shape[1] == dim, backward)
    per_task = max(1, _TASK_ELEMENTS // max(1, count * dim))
    _all_samples(kernel, _strided(x), _strided(dx), count, sums, y, n, per_task, x.size)


@functools.lru_cache(maxsize=256)
def _kernel(target: Target, dim: int, elementwise: bool, backward: bool) -> int:
    return address(PairVectorsSpec(dim, elementwise, backward), target)


def _strided(array: F32) -> tuple[int, int, int]:
    return array.ctypes.data, array.strides[0], array.strides[1]


@jit
def _all_samples(
    kernel: int,
    x: tuple[int, int, int],
    dx: tuple[int, int, int],
    count: int,
    sums: F32,
    y: F32,
    samples: int,
    per_task: int,
    elements: int,
) -> None:
    addresses = (*x, *dx, count, sums.ctypes.data, y.ctypes.data)
    operands = (kernel, addresses, samples, per_task)
    serial = elements < PARALLEL_MIN_ELEMENTS
    run_tasks(_some_samples, ceil_div(samples, per_task), operands, serial)


@task_jit
def _some_samples(task: int, kernel: int, addresses: Any, samples: int, per_task: int) -> None:
    first = task * per_task
    call(kernel, (*addresses, first, min(samples, first + per_task)))
