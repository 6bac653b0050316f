"""The logistic regression from which a run starts (``--linear-start``), the same on all ranks."""

from __future__ import annotations

import numpy as np

from dlrmjit.data.source import Source
from dlrmjit.model.linear_start import Design, check_linear_start, solve, start_linear_part
from dlrmjit.model.model import Model
from dlrmjit.parallel.comm import Comm


def start_from_logistic_regression(model: Model, train: Source, comm: Comm) -> None:
    """Set the linear part of ``model`` to a logistic regression of ``train``; all ranks call this.

    The first rank solves it. Raises ConfigError for a model without such a part.
    """
    check_linear_start(model.architecture)
    count = sum(train.table_rows) + train.dense_features + 1
    weights = np.empty(count)
    solved = np.empty(0)
    if comm.rank == 0:
        solved = solve(Design.of(train.batches(), train.table_rows))
    counts = [count, *[0] * (comm.size - 1)]
    comm.allgatherv(solved, weights, counts, name="logistic regression").wait()
    start_linear_part(model, weights)
