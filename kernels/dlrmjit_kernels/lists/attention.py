"""Scaled dot-product attention of the items of a list to each other.

The shares of a list, its softmax, are stored from the forward pass to the backward pass: n * n
numbers per list, and nothing per pair and column.
"""

from __future__ import annotations

import numpy as np

from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.lists.attention_loops import backward, forward
from dlrmjit_kernels.lists.attention_plan import AttentionPlan, attention_plan
from dlrmjit_kernels.lists.parts import F32, I64, Cost, Lists
from dlrmjit_kernels.runtime.operands import FLOAT32, check_array, check_disjoint, check_separate
from dlrmjit_kernels.runtime.target import current_target

_COST = Cost(pairs=1, rows=64)


def shares_size(lengths: I64) -> int:
    """Return how many float32 the shares of lists of these lengths take."""
    return int(_starts(lengths)[-1])


def _starts(lengths: I64) -> I64:
    """Return where the shares of each list start, and where those of the last end."""
    target = current_target()
    panels = -(-lengths // target.nr)
    sizes = panels * target.nr * (panels * target.nr + target.mr)
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def attention_forward(qkv: F32, offsets: I64, y: F32, shares: F32) -> None:
    """``y = softmax(Q @ K.T / sqrt(d)) @ V`` within each list.

    Parameters
    ----------
    qkv : [Q, K, V] (N, 3 d)
    offsets : (lists + 1,) int64; list l has the rows ``offsets[l]:offsets[l + 1]``
    y : (N, d)
    shares : at least :func:`shares_size` elements, for the backward pass

    Raises
    ------
    ShapeError
        For operands that do not fit.
    """
    qkv, plan = _checked(qkv)
    rows, dim = len(qkv), qkv.shape[1] // 3
    y = check_array("y", y, FLOAT32, (rows, dim), written=True)
    lists = Lists.of(offsets, rows, _COST)
    starts = _starts(np.diff(lists.offsets))
    shares = _checked_shares(shares, starts, written=True)
    check_separate({"y": y, "shares": shares}, qkv=qkv, offsets=lists.offsets)
    forward(qkv, lists.offsets, lists.parts, starts, plan.sizes, plan.kernels, shares, y)


def attention_backward(qkv: F32, offsets: I64, shares: F32, dy: F32, dqkv: F32) -> None:
    """Write the gradient of ``qkv`` from that of y, and the shares of the forward pass.

    Raises ShapeError for operands that do not fit.
    """
    qkv, plan = _checked(qkv)
    dy = check_array("dy", dy, FLOAT32, (len(qkv), qkv.shape[1] // 3))
    dqkv = check_array("dqkv", dqkv, FLOAT32, qkv.shape, written=True)
    lists = Lists.of(offsets, len(qkv), _COST)
    starts = _starts(np.diff(lists.offsets))
    shares = _checked_shares(shares, starts)
    check_disjoint("dqkv", dqkv, qkv=qkv, dy=dy, shares=shares, offsets=lists.offsets)
    backward(qkv, lists.offsets, lists.parts, starts, plan.sizes, plan.kernels, shares, dy, dqkv)


def _checked(qkv: F32) -> tuple[F32, AttentionPlan]:
    qkv = check_array("qkv", qkv, FLOAT32, 2)
    if qkv.shape[1] % 3 or not qkv.shape[1]:
        raise ShapeError(f"qkv must have as many columns of each, not {qkv.shape[1]} together")
    return qkv, attention_plan(qkv.shape[1] // 3, current_target())


def _checked_shares(shares: F32, starts: I64, written: bool = False) -> F32:
    shares = check_array("shares", shares, FLOAT32, 1, written)
    if len(shares) < starts[-1]:
        raise ShapeError(f"the shares of these lists take {starts[-1]} elements, not {len(shares)}")
    return shares
