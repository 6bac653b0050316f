"""From the shape of a convolution to what transposing its filters needs, made once."""

from __future__ import annotations

import functools

import numpy as np

from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.convolution.filter_loops import FILTER_PLAN, FILTER_TAP, Transposing
from dlrmjit_kernels.convolution.plan import channels, data_parts
from dlrmjit_kernels.convolution.shape import Convolution
from dlrmjit_kernels.microkernels.transpose import Transpose
from dlrmjit_kernels.runtime.target import Target


@functools.lru_cache(maxsize=256)
def transposing(conv: Convolution, target: Target) -> Transposing:
    """Return the plan of :func:`transpose_filters`: one record, and one for every tap in use."""
    x, y = channels(conv)
    plan = np.zeros(1, FILTER_PLAN)
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
    return plan, np.array(taps, FILTER_TAP)
