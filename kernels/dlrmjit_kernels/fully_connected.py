"""Fully connected layer: forward and both gradients, over matrices of any layout."""

from __future__ import annotations

from typing import Literal

import numpy as np

from dlrmjit.errors import ShapeError
from dlrmjit_kernels.matrix import Floats, Matrix

Activation = Literal["none", "relu", "sigmoid"]


def fc_forward(
    x: Matrix, w: Matrix, b: Floats | None, y: Matrix, activation: Activation = "none"
) -> None:
    """``y = act(x @ w + b)`` for x (N, C), w (C, K), b (K,) and y (N, K)."""
    _expect(x.rows == y.rows and x.cols == w.rows and w.cols == y.cols, x, w, y)
    result = x.to_numpy() @ w.to_numpy()
    if b is not None:
        result += b
    if activation == "relu":
        result = np.maximum(result, 0)
    elif activation == "sigmoid":
        result = 1 / (1 + np.exp(-result))
    y.assign(result)


def fc_backward_data(dz: Matrix, w: Matrix, dx: Matrix, mask: Matrix | None = None) -> None:
    """``dx = (dz @ w.T) * (mask > 0)`` for dz (N, K), w (C, K), dx and mask (N, C)."""
    _expect(dz.rows == dx.rows and dz.cols == w.cols and w.rows == dx.cols, dz, w, dx)
    result = dz.to_numpy() @ w.to_numpy().T
    if mask is not None:
        result[~(mask.to_numpy() > 0)] = 0
    dx.assign(result)


def fc_backward_weights(x: Matrix, dz: Matrix, dw: Matrix, db: Floats | None = None) -> None:
    """``dw = x.T @ dz; db = dz.sum(0)`` for x (N, C), dz (N, K), dw (C, K) and db (K,)."""
    _expect(x.rows == dz.rows and x.cols == dw.rows and dz.cols == dw.cols, x, dz, dw)
    dw.assign(x.to_numpy().T @ dz.to_numpy())
    if db is not None:
        db[:] = dz.to_numpy().sum(axis=0)


def _expect(consistent: bool, *operands: Matrix) -> None:
    if not consistent:
        shapes = ", ".join(f"{m.rows} x {m.cols}" for m in operands)
        raise ShapeError(f"the matrices of a fully connected layer do not fit: {shapes}")
