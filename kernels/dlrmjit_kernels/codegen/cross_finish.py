"""What a register tile does with its sums in a cross layer, x' = x0 * (W h + b) + x, in registers.

The elementwise product, the residual and their gradients are part of the product's epilogue, so
that no pass over a matrix of the layer's width is made for them. Besides C and the operand
``mask``, each kind has further operands: element (r, c) of number i is ``others[i]`` bytes after
that of ``mask``, so all of them are stored alike. For a sum ``t``, bias included:

| kind | ``mask`` | others | computes |
|---|---|---|---|
| ``FORWARD`` | x0 | x, z | ``z = t; c = x0 * t + x`` |
| ``BACKWARD`` | x0 | dx, z, dx0, next dx | ``dx' = t + dx; dx0 += dx' * z; c = x0 * dx'`` |
| ``LAST`` | dx | dx0 | ``c = t + dx + dx0`` |

``next dx``, to which ``dx'`` is written, may be ``dx``. An operand overlaps C nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from dlrmjit_kernels.codegen.emitter import I64, Emitter, Value

Write = tuple[Value, Value]
"""A vector, and the pointer that it goes to once all of its row have been read."""


class Cross(IntEnum):
    """The kinds; ``NONE`` is a tile of any other layer."""

    NONE = 0
    FORWARD = 1
    BACKWARD = 2
    LAST = 3


OPERANDS = {Cross.NONE: 0, Cross.FORWARD: 2, Cross.BACKWARD: 4, Cross.LAST: 1}
"""Number of further operands of each kind."""


def load_distances(k: Emitter, kind: Cross) -> list[Value]:
    """Return the distances in bytes of the further operands from ``mask``."""
    table = k["others"]
    pointers = [k.offset(table, i, size=8) for i in range(OPERANDS[kind])]
    return [k.builder.load(pointer, align=8, typ=I64) for pointer in pointers]


def cross(
    k: Emitter, kind: Cross, t: Value, pointers: list[Value], load: Callable[[Value], Value]
) -> tuple[Value, list[Write]]:
    """Return the vector of C, and what else to write, for the sums ``t`` of one vector.

    ``pointers`` are those of ``mask`` and of the further operands at this vector.
    """
    first, *others = pointers
    if kind is Cross.FORWARD:
        x, z = others
        return k.multiply_add(load(first), t, load(x)), [(t, z)]
    if kind is Cross.BACKWARD:
        dx, z, dx0, following = others
        total = k.builder.fadd(t, load(dx))
        sum0 = k.multiply_add(total, load(z), load(dx0))
        return k.builder.fmul(total, load(first)), [(sum0, dx0), (total, following)]
    (dx0,) = others
    return k.builder.fadd(k.builder.fadd(t, load(first)), load(dx0)), []


def moved(k: Emitter, pointer: Value, distances: list[Value]) -> list[Value]:
    """Return a pointer into ``mask``, and the same element of the further operands."""
    return [pointer, *(k.offset(pointer, distance, size=1) for distance in distances)]
