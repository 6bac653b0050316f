"""Vectors of a column from two smaller tables, for the compiled backend."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from dlrmjit_kernels.embedding.combine import bind_combine, bind_combine_gradients
from dlrmjit_kernels.runtime.buffers import aligned_empty
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Rule, Step

F32 = NDArray[np.float32]


def _forward(step: Step) -> F32:
    (pooled,) = step.values
    slots, operation = step.options["slots"], step.options["operation"]
    out: F32 | None = step.options.get("out")
    if out is None:
        shape = (len(pooled), len(slots), step.options["dim"])
        out = step.cached("out", lambda: aligned_empty(shape))
    bind = partial(bind_combine, pooled, out, slots, operation)
    step.cached_for("forward", (pooled, out), bind)()
    return out


def _backward(step: Step, gradient: Any) -> Iterator[tuple[int, F32]]:
    (pooled,) = step.values
    slots, operation = step.options["slots"], step.options["operation"]
    found = step.cached("gradient", lambda: np.zeros(pooled.shape, np.float32))
    bind = partial(bind_combine_gradients, gradient, pooled, found, slots, operation)
    step.cached_for("backward", (gradient, pooled), bind)()
    yield 0, found


RULES = (Rule("combine", _forward, _backward),)
