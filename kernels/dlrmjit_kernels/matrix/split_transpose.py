"""Transposes weights in halves in one pass: what the gradient by data multiplies with.

Only upper halves are read. What is written are float32 numbers, or words of pairs along K for
processors that multiply BF16 numbers; either is exact.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.matrix.matrix import Layout
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.microkernels.transpose import Transpose
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.target import Target, current_target

PLAN = np.dtype(
    [(name, np.int64) for name in ("rows", "cols", "lanes", "width", "to_pairs")]
    + [("kernels", np.int64, (2, 2))]
)
Numbers = Any  # a PLAN, or an array of one


def transposed_layout(rows: int, cols: int, to_pairs: bool, target: Target) -> Layout:
    """Layout of the transpose (K, C), or (ceil(K / 2), C) of words, of weights (C, K)."""
    return Layout.panels(ceil_div(cols, 2) if to_pairs else cols, rows, target.nr)


def transpose_weights(weights: SplitWeights, address: int, to_pairs: bool) -> None:
    """Write the transpose of weights (C, K), K > 1, to ``address`` in :func:`transposed_layout`."""
    plan = _plan(weights.rows, weights.cols, to_pairs, current_target())
    _transpose(plan, weights.high.address, address)


@functools.lru_cache(maxsize=4096)
def _plan(rows: int, cols: int, to_pairs: bool, target: Target) -> NDArray[np.void]:
    numbers = np.zeros(1, dtype=PLAN)
    n, lanes = numbers[0], target.lanes
    n["rows"], n["cols"], n["lanes"], n["width"] = rows, cols, lanes, target.nr
    n["to_pairs"] = to_pairs
    for i, height in enumerate((lanes, rows % lanes)):
        for j, width in enumerate((lanes, cols % lanes)):
            if height and width:
                spec = Transpose(height, width, from_pairs=True, to_pairs=to_pairs)
                n["kernels"][i, j] = engine.address(spec, target)
    return numbers


@jit
def _transpose(plan: Numbers, source: int, target: int) -> None:
    p = plan[0]
    across = ceil_div(p.cols, p.width)
    tasks = ceil_div(p.rows, p.width) * across
    run_tasks(_transpose_block, tasks, (plan, source, target, across), ALL_THREADS)


@task_jit
def _transpose_block(task: int, plan: Numbers, source: int, target: int, panels: int) -> None:
    """What lies in one of the ``panels`` of the weights and in one of the transpose."""
    p = plan[0]
    down, across = task // panels, task % panels
    width, lanes = p.width, p.lanes
    source += 4 * width * across * ((p.rows + 1) // 2)
    target += 4 * width * down * ((p.cols + 1) // 2 if p.to_pairs else p.cols)
    for c in range(down * width, min(p.rows, (down + 1) * width), lanes):
        for k in range(across * width, min(p.cols, (across + 1) * width), lanes):
            kernel = p.kernels[int(c + lanes > p.rows), int(k + lanes > p.cols)]
            row = k // 2 if p.to_pairs else k
            a = source + 4 * (c // 2 * width + k % width)
            b = target + 4 * (row * width + c % width)
            unsafe.call(kernel, (a, b, width, width))
