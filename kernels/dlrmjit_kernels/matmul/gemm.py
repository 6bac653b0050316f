"""Matrix product of ordinary row-major arrays, packed where that is faster."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.matmul.dispatch import Addresses, run
from dlrmjit_kernels.matmul.plan import Product
from dlrmjit_kernels.matrix.axes import view_of
from dlrmjit_kernels.matrix.matrix import Floats, Layout, aligned_floats, layout_of
from dlrmjit_kernels.runtime.operands import check_disjoint, check_flags


def gemm(
    a: NDArray[Any],
    b: NDArray[Any],
    out: NDArray[Any] | None = None,
    *,
    trans_a: bool = False,
    trans_b: bool = False,
    accumulate: bool = False,
) -> Floats:
    """Compute ``out = op(a) @ op(b)``, or ``out += op(a) @ op(b)`` to accumulate; return ``out``.

    Parameters
    ----------
    a, b
        2-D float32 arrays with contiguous rows, any leading dimension; ``op`` transposes where
        ``trans_a`` or ``trans_b`` says so.
    out
        Array of the result's shape that overlaps neither ``a`` nor ``b``. It is not read
        without ``accumulate``. By default a new array.

    Raises
    ------
    ShapeError
        If an operand is not such an array, the shapes do not match, or there is nothing to
        accumulate into.
    """
    of_a, of_b = layout_of(a), layout_of(b)
    if out is None:
        if accumulate:
            raise ShapeError("gemm was asked to accumulate, but out was not given")
        rows, cols = of_a.cols if trans_a else of_a.rows, of_b.rows if trans_b else of_b.cols
        out = aligned_floats(rows * cols).reshape(rows, cols)
        of_out = layout_of(out)
    else:
        of_out = layout_of(out)
        check_flags("out of gemm", out, written=True)
        check_disjoint("out of gemm", out, a=a, b=b)
    product = _product(of_a, of_b, of_out, trans_a, trans_b, accumulate)
    run(product, Addresses(a.ctypes.data, b.ctypes.data, out.ctypes.data))
    return out


@functools.lru_cache(maxsize=4096)
def _product(
    a: Layout, b: Layout, c: Layout, trans_a: bool, trans_b: bool, accumulate: bool
) -> Product:
    for name, flag in (("trans_a", trans_a), ("trans_b", trans_b), ("accumulate", accumulate)):
        if not isinstance(flag, (bool, np.bool_)):
            raise ShapeError(f"{name} of gemm must be True or False, not {flag!r}")
    left = view_of(a).transposed if trans_a else view_of(a)
    right = view_of(b).transposed if trans_b else view_of(b)
    result = view_of(c)
    shapes = [(v.rows.extent, v.cols.extent) for v in (left, right, result)]
    (m, k), (k_right, n), written = shapes
    if k != k_right:
        raise ShapeError(
            f"gemm of {m} x {k} and {k_right} x {n}: the first has {k} columns, the second "
            f"{k_right} rows; trans_a and trans_b transpose"
        )
    if written != (m, n):
        raise ShapeError(
            f"gemm of {m} x {k} and {k_right} x {n} gives {m} x {n}, but out is "
            f"{written[0]} x {written[1]}"
        )
    return Product(left, right, result, accumulate=accumulate)
