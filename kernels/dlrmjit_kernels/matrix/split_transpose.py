"""Transposes split weights in one pass, for the gradient with respect to a layer's input.

Only the high 16 bits are read. The transpose is float32 or, for processors that multiply BF16
numbers, BF16 pairs along K; both are exact.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.calls.calls import Calls, bind
from dlrmjit_kernels.calls.entries import store_call
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.matrix.axes import view_of
from dlrmjit_kernels.matrix.matrix import Layout
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.matrix.tiles import make_plan, plan_type, tile_at
from dlrmjit_kernels.microkernels.transpose import Transpose
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.target import Target, current_target

_KERNELS = ("whole", "last_col", "last_row", "corner")
_PLAN = plan_type("lanes", "to_pairs", *_KERNELS)


def transposed_layout(rows: int, cols: int, to_pairs: bool, target: Target) -> Layout:
    """Return the layout of the transpose of weights (C, K): (K, C), or (ceil(K / 2), C) pairs."""
    return Layout.panels(ceil_div(cols, 2) if to_pairs else cols, rows, target.nr)


def transpose_weights(weights: SplitWeights, address: int, to_pairs: bool) -> None:
    """Write the transpose of weights (C, K), K > 1, to ``address`` in :func:`transposed_layout`."""
    bind_transpose(weights, address, to_pairs)()


def bind_transpose(weights: SplitWeights, address: int, to_pairs: bool, moved: int = 0) -> Calls:
    """Return :func:`transpose_weights` as a call to repeat.

    An ``address`` that is ``moved``, 1 and not 0, counts from that of the scratch.
    """
    plan = _plan(weights.high.layout, weights.rows, to_pairs, current_target())
    return bind(_store_transpose, plan, weights.high.address, address, moved)


@functools.lru_cache(maxsize=4096)
def _plan(source: Layout, rows: int, to_pairs: bool, target: Target) -> NDArray[np.void]:
    cols, lanes = source.cols, target.lanes
    sizes = [(height, width) for height in (lanes, rows % lanes) for width in (lanes, cols % lanes)]
    specs = [Transpose(*size, from_pairs=True, to_pairs=to_pairs) for size in sizes]
    kernels = [engine.address(spec, target) if spec.rows and spec.cols else 0 for spec in specs]
    transposed = transposed_layout(rows, cols, to_pairs, target)
    return make_plan(
        _PLAN,
        view_of(source),
        view_of(transposed),
        (rows, cols),
        (target.nr, target.nr),
        lanes=lanes,
        to_pairs=to_pairs,
        **dict(zip(_KERNELS, kernels, strict=True)),
    )


@jit
def _store_transpose(frame: int, operands: Any) -> int:
    address: int = store_call(_transpose, frame, operands)
    return address


@jit
def _transpose(plan: NDArray[Any], source: int, target: int, moved: int, scratch: int) -> None:
    operands = (plan, source, target + moved * scratch)
    run_tasks(_transpose_tile, plan[0].tiles, operands, ALL_THREADS)


@task_jit
def _transpose_tile(number: int, plan: NDArray[Any], source: int, target: int) -> None:
    """Transpose what is in one panel of the weights and in one panel of the transpose."""
    p = plan[0]
    tile, lanes = tile_at(p, number), p.lanes
    # A tile is as wide as a panel of the weights and as high as one of the transpose is wide.
    row = tile.col // 2 if p.to_pairs else tile.col
    source += 4 * (number % p.across * p.source.cols.block_stride)
    source += 4 * (tile.row // 2 * p.source.rows.step)
    target += 4 * (number // p.across * p.target.cols.block_stride)
    target += 4 * (row * p.target.rows.step)
    for c in range(0, tile.height, lanes):
        for k in range(0, tile.width, lanes):
            a = source + 4 * (c // 2 * p.source.rows.step + k)
            b = target + 4 * ((k // 2 if p.to_pairs else k) * p.target.rows.step + c)
            if c + lanes <= tile.height:
                kernel = p.whole if k + lanes <= tile.width else p.last_col
            else:
                kernel = p.last_row if k + lanes <= tile.width else p.corner
            unsafe.call(kernel, (a, b, p.source.rows.step, p.target.rows.step))
