"""The inputs of ``evaluate`` and ``predict``: a saved model, and data that fit it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.config.model import TableConfig
from dlrmjit.data.dataset import Dataset
from dlrmjit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from dlrmjit.model.model import Model


@dataclass(frozen=True)
class Given:
    """A model and the rows to score with it."""

    model: Model
    rows: Dataset


def load_given(arguments: Any) -> Given:
    """Return the model and the rows that the options name.

    Raises ConfigError, DataError or CheckpointError, also for rows that do not match the model.
    """
    from dlrmjit.cli.build.saved_model import load_saved
    from dlrmjit.cli.report.machine import use_threads

    use_threads(arguments.threads)
    tables = TableConfig(arguments.embedding_dir, arguments.bounds)
    rows = replace(_rows(arguments).limited(arguments.max_ind_range), bounds=tables.bounds)
    model = load_saved(arguments.model, arguments, backend=arguments.backend, tables=tables)
    check_fits(rows, model.config.table_rows, model.config.dense_features, arguments.model)
    return Given(model, rows)


def _rows(arguments: Any) -> Dataset:
    from dlrmjit.data.prepared.encode import read_with_vocabulary
    from dlrmjit.data.prepared.reader import PreparedSet

    if arguments.data.is_dir():
        return PreparedSet(arguments.data).dataset(arguments.split)
    if arguments.data.suffix == ".bin":
        from dlrmjit.data.formats.mlperf_bin import open_bin

        return open_bin(arguments.data)
    if arguments.vocabulary is None:
        raise ConfigError(
            f"{arguments.data} is text, whose values have no ids: give the prepared set that the "
            "model was trained on as --vocabulary DIR"
        )
    return read_with_vocabulary(arguments.data, PreparedSet(arguments.vocabulary))


def check_fits(
    rows: Dataset, table_rows: Sequence[int], dense_features: int, model: object
) -> None:
    """Raise DataError for rows with other columns than the model's, or ids outside its tables.

    Rows whose bounds are ``clamp`` or ``ignore`` may have such ids.
    """
    if rows.dense.shape[1] != dense_features or len(rows.table_rows) != len(table_rows):
        raise DataError(
            f"{rows.origin} has {rows.dense.shape[1]} dense and {len(rows.table_rows)} "
            f"categorical columns, but {model} was trained on {dense_features} and "
            f"{len(table_rows)}"
        )
    for s, (ours, theirs) in enumerate(zip(rows.table_rows, table_rows, strict=True)):
        if ours > theirs and rows.bounds == "raise":
            raise DataError(
                f"{rows.origin}: categorical column {s} has {ours} rows, but its table in {model} "
                f"has {theirs}; the model was trained on another set, or with another "
                "--max-ind-range (--bounds clamp and ignore accept ids outside the tables)"
            )


def scores_of(given: Given, batch_size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return predicted probabilities and labels of all N rows in order, each float32 (N,)."""
    from dlrmjit.data.loader import Loader

    scores = np.empty(len(given.rows), np.float32)
    labels = np.empty(len(given.rows), np.float32)
    begin = 0
    for batch in Loader(given.rows, batch_size).batches():
        end = begin + batch.n
        scores[begin:end] = given.model.predict_proba(batch)
        labels[begin:end] = batch.labels
        begin = end
    return scores, labels
