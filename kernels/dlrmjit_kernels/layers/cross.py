"""What cross layers add to a product: its epilogue with operands of their own, and their start.

The layers are x' = x0 * z + x with z = W h + b. Their forward and their gradients are products of
:mod:`.fully_connected` with one of the epilogues below, which compute everything else while a
tile of the product is in registers. Only the gradient that arrives from the next operation has to
be multiplied in a pass of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen.cross_finish import Cross
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.layers.elementwise import F32, RUN
from dlrmjit_kernels.matrix.matrix import Matrix, check_apart
from dlrmjit_kernels.runtime.compile import Call, jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS, run_tasks

_DX = "operand 1"


@dataclass(frozen=True, eq=False)
class CrossEpilogue:
    """An epilogue and its operands, matrices of one layout; the last ``written`` are written."""

    kind: Cross
    first: Matrix
    others: tuple[Matrix, ...]
    written: int
    distances: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        for matrix in self.others:
            if matrix.layout != self.first.layout:
                raise ShapeError(
                    f"the operands of a cross layer must have one layout, not {self.first!r} and "
                    f"{matrix!r}"
                )
        named = list(self.operands.items())
        for i in range(len(named) - self.written, len(named)):
            name, matrix = named[i]
            others = dict(named[:i] + named[i + 1 :])
            if self.kind is Cross.BACKWARD and others.get(_DX) is matrix:
                del others[_DX]  # the gradient may be replaced by the following one
            check_apart(name, matrix, **others)
        apart = [matrix.address - self.first.address for matrix in self.others]
        object.__setattr__(self, "distances", np.array(apart, np.int64))

    @property
    def operands(self) -> dict[str, Matrix]:
        """All operands by a name for messages."""
        return {f"operand {i}": m for i, m in enumerate((self.first, *self.others))}


def forward_epilogue(x0: Matrix, x: Matrix, z: Matrix) -> CrossEpilogue:
    """``z = t; y = x0 * t + x`` for the sums t of the product with its bias, which z stores."""
    return CrossEpilogue(Cross.FORWARD, x0, (x, z), 1)


def backward_epilogue(
    x0: Matrix, dx: Matrix, z: Matrix, dx0: Matrix, following: Matrix
) -> CrossEpilogue:
    """Make the gradients of the layer below from those of a layer's product by its input, t.

    ``following = t + dx; dx0 += following * z; dz = x0 * following``, where z is of the layer
    below, and dz the result of the product. ``following`` may be dx.
    """
    return CrossEpilogue(Cross.BACKWARD, x0, (dx, z, dx0, following), 2)


def last_epilogue(dx: Matrix, dx0: Matrix) -> CrossEpilogue:
    """``t + dx + dx0``: the gradient of x0, which is the input of the first layer too."""
    return CrossEpilogue(Cross.LAST, dx, (dx0,), 0)


def bind_start(dx: Matrix, x0: Matrix, z: Matrix, dz: Matrix, dx0: Matrix) -> Call:
    """Return ``dz = dx * x0; dx0 = dx * z`` as a call to repeat; all matrices of one layout."""
    operands = CrossEpilogue(Cross.NONE, dx, (x0, z, dz, dx0), 2)
    return partial(_start, *(m.data[: m.layout.span] for m in operands.operands.values()))


@jit
def _start(dx: F32, x0: F32, z: F32, dz: F32, dx0: F32) -> None:
    operands = dx, x0, z, dz, dx0
    run_tasks(_start_run, ceil_div(dx.size, RUN), operands, dx.size < PARALLEL_MIN_ELEMENTS)


@task_jit
def _start_run(task: int, dx: F32, x0: F32, z: F32, dz: F32, dx0: F32) -> None:
    for i in range(task * RUN, min(dx.size, (task + 1) * RUN)):
        dz[i] = dx[i] * x0[i]
        dx0[i] = dx[i] * z[i]
