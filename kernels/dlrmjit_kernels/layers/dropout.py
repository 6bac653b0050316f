"""Dropout whose mask is never stored: whether an element stays follows from its index.

Forward and backward are the same operation with the same stream.
"""

from __future__ import annotations

import numpy as np

from dlrmjit_kernels.errors import ConfigError
from dlrmjit_kernels.layers.column_ops import run_column_op
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.microkernels.column_ops import ColumnOp


def dropout(x: Matrix, y: Matrix, rate: float, stream: int) -> None:
    """``y = x / (1 - rate)`` where an element stays, else 0; may be in place.

    Element (r, c) of C columns stays when the upper 24 bits of number ``r * C + c`` of the
    splitmix64 ``stream`` are at least ``rate * 2**24`` (Srivastava et al. 2014). Raises ConfigError
    for another rate.
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"the rate of dropout must be from 0 to less than 1, not {rate}")
    scale = np.float32(1.0 / (1.0 - rate)).view(np.uint32)
    constants = np.array([stream, int(rate * 2**24), scale], np.uint64)
    run_column_op(ColumnOp.DROPOUT, (x, y), constants)
