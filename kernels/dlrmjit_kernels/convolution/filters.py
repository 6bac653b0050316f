"""Transposes filters for the gradient by data: inputs and outputs exchanged, taps reversed.

Those of a phase of the pixels (:mod:`.taps`) are next to each other, as
``W'[Cb][phase][Kb][R'][S'][bk][bc]``.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.convolution.plan import channels, data_parts
from dlrmjit_kernels.convolution.shape import Convolution
from dlrmjit_kernels.microkernels.transpose import Transpose
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS, run_tasks
from dlrmjit_kernels.runtime.target import Target

_FIELDS = (
    # blocks of channels and of filters, taps of a filter, and how many of them reach an image
    *("in_blocks", "in_block", "out_blocks", "out_block", "taps", "used"),
    # lanes of a vector, and the kernel that transposes a square of them, or 0
    *("lanes", "transpose"),
)
_PLAN = np.dtype([(name, np.int64) for name in _FIELDS])
_TAP = np.dtype([(name, np.int64) for name in ("tap", "phase", "position", "phase_taps")])
"""A tap of the forward filters; taps of phases before its own, its position there, their number."""

Records = Any  # an array of records, whose fields are attributes in compiled functions only


@functools.lru_cache(maxsize=256)
def transposing(conv: Convolution, target: Target) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Return the plan of :func:`transpose_filters`: one record, and one for every tap in use."""
    x, y = channels(conv)
    plan = np.zeros(1, _PLAN)
    aligned = x.block % target.lanes == 0 and y.block % target.lanes == 0
    kernel = engine.address(Transpose(), target) if aligned else 0
    window = conv.R * conv.S
    taps, before = [], 0
    for part, down, across in data_parts(conv):
        for j in range(part.rows.taps):
            for i in range(part.cols.taps):
                r, s = down.tap + j * conv.stride, across.tap + i * conv.stride
                position = part.taps - 1 - (j * part.cols.taps + i)
                taps.append((r * conv.S + s, before, position, part.taps))
        before += part.taps
    # an image smaller than the stride does not have all phases: ``before`` is less than ``window``
    plan[0] = (x.blocks, x.block, y.blocks, y.block, window, before, target.lanes, kernel)
    return plan, np.array(taps, _TAP)


@jit
def transpose_filters(plan: Records, taps: Records, source: int, target: int) -> None:
    """Write the transposed filters of a plan to the address ``target``."""
    count = plan[0].in_blocks * plan[0].out_blocks
    small = count * plan[0].taps * plan[0].in_block * plan[0].out_block < PARALLEL_MIN_ELEMENTS
    run_tasks(_transpose_block, count, (plan, taps, source, target), small)


@task_jit
def _transpose_block(task: int, plan: Records, taps: Records, source: int, target: int) -> None:
    """Transpose all taps of a block of channels of a panel."""
    p = plan[0]
    c, k = task // p.out_blocks, task % p.out_blocks
    square = p.in_block * p.out_block
    for i in range(len(taps)):
        tap = taps[i]
        into = (c * p.used + tap.phase) * p.out_blocks + k * tap.phase_taps + tap.position
        block = (k * p.in_blocks + c) * p.taps + tap.tap
        _transpose_tap(plan, source + 4 * square * block, target + 4 * square * into)


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
