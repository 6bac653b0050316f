"""Where gradients of images are stored: in a few buffers, each used again as soon as it is free.

All gradients of a network together are as large as its images, but few are in use at a time.
Written to memory that was just read, they stay in the last cache.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from dlrmjit_kernels.matrix.matrix import Floats, Layout, Matrix, aligned_floats

from dlrmjit.autograd.tape import Step

_SOURCES = frozenset({"images", "convolution", "pooling", "batch_norm"})
"""Rules that yield no gradient of a parameter in the memory of the one they use."""


class InputGradient(NamedTuple):
    """A matrix for the gradient of an input; ``adds`` if it has that of other uses already."""

    dx: Matrix
    adds: bool


def input_gradient(step: Step, number: int, layout: Layout) -> InputGradient:
    """Return where a rule that can add to a gradient writes that of input ``number``."""
    total, flow = step.flow.arrived(step.inputs[number]), step.flow
    if isinstance(total, Matrix) and total.layout == layout:
        others = [each for each in flow.in_use() if each is not total]
        is_only_one = sum(each is total for each in flow.in_use()) == 1
        if is_only_one and not _overlaps(total.data, others):
            return InputGradient(total, True)
    return InputGradient(gradient_buffer(step, number, layout), False)


def gradient_buffer(step: Step, number: int, layout: Layout) -> Matrix:
    """Return a matrix for the gradient of input ``number``, apart from all gradients in use.

    A replay gets the same matrix. It is the step's own if the gradient leaves the tape.
    """
    flow = step.flow
    if flow.source(step.inputs[number]) not in _SOURCES:
        return step.cached("dx", partial(Matrix.empty, layout))
    before: Matrix | None = step.memory.get("dx")
    if before is None or before.layout != layout or _overlaps(before.data, flow.in_use()):
        before = step.memory["dx"] = Matrix(_free_buffer(step, layout.span), layout)
    return before


def _free_buffer(step: Step, span: int) -> Floats:
    """Return the start of the smallest buffer of the tape that is free, or of a new one."""
    buffers: list[Floats] = step.flow.memory.setdefault("gradients", [])
    in_use = step.flow.in_use()
    free = [each for each in buffers if each.size >= span and not _overlaps(each, in_use)]
    if not free:
        free = [aligned_floats(span)]
        buffers += free
    return min(free, key=len)[:span]


def _overlaps(buffer: Floats, gradients: list[object]) -> bool:
    arrays = (each.data if isinstance(each, Matrix) else each for each in gradients)
    return any(
        isinstance(array, np.ndarray) and np.may_share_memory(buffer, array) for array in arrays
    )
