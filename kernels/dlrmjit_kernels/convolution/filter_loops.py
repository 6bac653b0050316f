"""Transposes filters for the gradient by data: inputs and outputs exchanged, taps reversed.

Those of a phase of the pixels (:mod:`.taps`) are next to each other, as
``W'[Cb][phase][Kb][R'][S'][bk][bc]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS, run_tasks

_FIELDS = (
    # blocks of channels and of filters, taps of a filter, and how many of them reach an image
    *("in_blocks", "in_block", "out_blocks", "out_block", "taps", "used"),
    # lanes of a vector, and the kernel that transposes a square of them, or 0
    *("lanes", "transpose"),
)
FILTER_PLAN = np.dtype([(name, np.int64) for name in _FIELDS])
FILTER_TAP = np.dtype([(name, np.int64) for name in ("tap", "phase", "position", "phase_taps")])
"""A tap of the forward filters; taps of phases before its own, its position there, their number."""

Records = Any  # an array of records, whose fields are attributes in compiled functions only
Transposing = tuple[NDArray[np.void], NDArray[np.void]]
NOT_TRANSPOSING: Transposing = np.zeros(1, FILTER_PLAN), np.zeros(0, FILTER_TAP)


@jit
def transpose_filters(plan: Records, taps: Records, source: int, target: int) -> None:
    """Write the transposed filters of a plan to the address ``target``."""
    count = plan[0].in_blocks * plan[0].out_blocks
    small = count * plan[0].taps * plan[0].in_block * plan[0].out_block < PARALLEL_MIN_ELEMENTS
    run_tasks(_transpose_block, count, (plan, taps, source, target), small)


@task_jit
def _transpose_block(task: int, plan: Records, taps: Records, source: int, target: int) -> None:
    p = plan[0]
    c, k = task // p.out_blocks, task % p.out_blocks
    panel = 4 * p.in_block * p.out_block * p.used * p.out_blocks
    transpose_panel(plan, taps, source, target + c * panel, (c, k, k + 1))


@jit
def transpose_panel(
    plan: Records, taps: Records, source: int, panel: int, part: tuple[int, int, int]
) -> None:
    """Write a block of channels of some blocks of filters: its number, the first, the one after.

    ``panel`` is the address of the transposed filters of the block of channels.
    """
    p, (c, first, end) = plan[0], part
    square = 4 * p.in_block * p.out_block
    for k in range(first, end):
        for i in range(len(taps)):
            tap = taps[i]
            into = tap.phase * p.out_blocks + k * tap.phase_taps + tap.position
            block = (k * p.in_blocks + c) * p.taps + tap.tap
            _transpose_tap(plan, source + square * block, panel + square * into)


@jit
def _transpose_tap(plan: Records, source: int, target: int) -> None:
    p = plan[0]
    if p.transpose:
        for row in range(0, p.in_block, p.lanes):
            for col in range(0, p.out_block, p.lanes):
                at = source + 4 * (row * p.out_block + col)
                into = target + 4 * (col * p.in_block + row)
                unsafe.call(p.transpose, (at, into, p.out_block, p.in_block))
        return
    for row in range(p.in_block):
        for col in range(p.out_block):
            value = unsafe.load(source + 4 * (row * p.out_block + col))
            unsafe.store(target + 4 * (col * p.in_block + row), value)
