"""The start that a run solves first (``--linear-start``), the same on all ranks."""

from __future__ import annotations

import numpy as np

from dlrmjit.data.source import Source
from dlrmjit.model.linear_start import (
    Design,
    check_linear_start,
    factor_width,
    find_start,
    start_linear_part,
)
from dlrmjit.model.model import Model
from dlrmjit.parallel.comm import Comm


def start_from_solution(model: Model, train: Source, comm: Comm) -> None:
    """Set the linear part of ``model``, and its factors, to those of ``train``; all ranks call it.

    The first rank solves them. Raises ConfigError for a model without such a part.
    """
    check_linear_start(model.architecture)
    rows, width = sum(train.table_rows), factor_width(model.architecture)
    count = rows + train.dense_features + 1
    values, found = np.empty(count + rows * width), np.empty(0)
    if comm.rank == 0:
        start = find_start(model.architecture, Design.of(train.batches(), train.table_rows))
        found = np.concatenate([start.weights, *([] if start.vectors is None else start.vectors)])
    counts = [len(values), *[0] * (comm.size - 1)]
    comm.allgatherv(found, values, counts, name="linear start").wait()
    vectors = values[count:].reshape(rows, width) if width else None
    start_linear_part(model, values[:count], vectors)
