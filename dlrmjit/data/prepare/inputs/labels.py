"""Labels from numbers, by the rule of a schema; the kernel of text has the same one."""

from __future__ import annotations

from typing import Any

import numpy as np
from dlrmjit_kernels.data.csv import BEYOND_FLOAT32
from numpy.typing import NDArray

from dlrmjit.config.list_loss import MOST_RELEVANCE
from dlrmjit.data.schema import Schema


def labels_of(
    values: NDArray[np.float64], schema: Schema
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the labels (N,) of numbers (N,) in float64, and a mask of invalid ones."""
    if schema.threshold is not None:
        return (values > schema.threshold).astype(np.uint8), ~(np.abs(values) < BEYOND_FLOAT32)
    if schema.has_fractions:
        most = MOST_RELEVANCE if schema.relevance else 1
        return values.astype(np.float32), ~((values >= 0) & (values <= most))
    return (values == 1).astype(np.uint8), (values != 0) & (values != 1)
