"""The transforms that raw dense values pass through before a model sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.schema import DenseColumn


def transform_dense(
    column: DenseColumn, raw: NDArray[Any], moments: Sequence[float] | None
) -> NDArray[np.float32]:
    """Return the transformed values of ``raw`` (N,), in which missing values are NaN.

    ``moments`` are mean and standard deviation over the training rows, for a standardised column.
    """
    values = np.asarray(raw, np.float32)
    if column.missing is not None:
        values = np.where(np.isnan(values), np.float32(column.missing), values)
    if column.transform == "log1p":
        values = np.log(np.maximum(values, np.float32(0)) + np.float32(1))
    elif column.transform == "standardise" and moments is not None:
        mean, deviation = moments
        values = ((values.astype(np.float64) - mean) / (deviation or 1.0)).astype(np.float32)
    return np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)
