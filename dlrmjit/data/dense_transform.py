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

    They are computed in float64 and rounded once, so that they depend neither on the position of
    a row nor on the number of rows. ``moments`` are mean and standard deviation over the training
    rows, for a standardised column.
    """
    values = np.asarray(raw, np.float64)
    if column.missing is not None:
        values = np.where(np.isnan(values), column.missing, values)
    if column.transform == "log1p":
        values = np.log1p(np.maximum(values, 0.0))
    elif column.transform == "standardise" and moments is not None:
        mean, deviation = moments
        values = (values - mean) / (deviation or 1.0)
    values = np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)
    return np.asarray(values, np.float32)
