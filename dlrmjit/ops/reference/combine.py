"""Vectors of a column from two smaller tables, for the reference backend.

A quotient-remainder table (Shi et al., arXiv 1909.02107) pools the rows of two tables, which are
then multiplied, added, or put next to each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Rule, Step

Array = NDArray[Any]


def _forward(step: Step) -> Array:
    """Write the vectors (N, S, E) of all columns from those of all tables (N, T, W).

    The option ``slots`` has the one or two tables of each column.
    """
    (pooled,) = step.values
    slots, dim = step.options["slots"], step.options["dim"]
    out: Array | None = step.options.get("out")
    if out is None:
        shape = (len(pooled), len(slots), dim)
        out = step.cached("out", lambda: np.empty(shape, pooled.dtype))
    operation, half = step.options["operation"], dim // 2
    for s, tables in enumerate(slots):
        first, last = pooled[:, tables[0]], pooled[:, tables[-1]]
        if len(tables) == 1:
            out[:, s] = first[:, :dim]
        elif operation == "concat":
            out[:, s, :half], out[:, s, half:] = first[:, :half], last[:, :half]
        else:
            combine = np.multiply if operation == "mult" else np.add
            combine(first[:, :dim], last[:, :dim], out=out[:, s])
    return out


def _backward(step: Step, gradient: Array) -> Iterator[tuple[int, Array]]:
    (pooled,) = step.values
    found = step.cached("gradient", lambda: np.zeros(pooled.shape, pooled.dtype))
    operation, dim = step.options["operation"], step.options["dim"]
    half = dim // 2
    for s, tables in enumerate(step.options["slots"]):
        dy, (first, last) = gradient[:, s], (tables[0], tables[-1])
        if len(tables) == 1:
            found[:, first, :dim] = dy
        elif operation == "concat":
            found[:, first, :half], found[:, last, :half] = dy[:, :half], dy[:, half:]
        elif operation == "add":
            found[:, first, :dim] = found[:, last, :dim] = dy
        else:
            np.multiply(dy, pooled[:, last, :dim], out=found[:, first, :dim])
            np.multiply(dy, pooled[:, first, :dim], out=found[:, last, :dim])
    yield 0, found


RULES = (Rule("combine", _forward, _backward),)
