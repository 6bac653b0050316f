"""The transforms that raw numbers pass through before a model sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.schema import CategoricalColumn, DenseColumn, Schema

MISSING_ROW, RESERVED_ROWS = 1, 2
"""Of the table of a binned column; row 0 is for unknown values in other columns."""


DENSE, CATEGORICAL = "dense", "categorical"
Edges = Mapping[str, Mapping[str, Sequence[float]]]
"""Ends of bins, n + 1 numbers for n bins, by column: of dense columns, and of categorical ones."""


class NumberRules(NamedTuple):
    """What transforms know of the training rows.

    ``moments`` are mean and deviation of standardised columns, by name; ``edges`` the ends of bins.
    """

    moments: Mapping[str, Sequence[float]]
    edges: Edges


def transform_columns(
    schema: Schema, raw: Sequence[NDArray[Any]], rules: NumberRules
) -> NDArray[np.float32]:
    """Return the dense features (D, N) from the raw numbers (N,) of the dense columns."""
    parts = [
        _piecewise(column, values, rules.edges[DENSE][column.name])
        if column.bins
        else transform_dense(column, values, rules.moments.get(column.name))[None]
        for column, values in zip(schema.dense, raw, strict=False)
    ]
    return np.concatenate(parts) if parts else np.empty((0, len(raw[0]) if raw else 0), np.float32)


def transform_dense(
    column: DenseColumn, raw: NDArray[Any], moments: Sequence[float] | None
) -> NDArray[np.float32]:
    """Return the transformed values of ``raw`` (N,), in which missing values are NaN.

    They are computed in float64 and rounded once, so that they depend neither on the position of
    a row nor on the number of rows. ``moments`` are mean and standard deviation over the training
    rows, for a standardised column.
    """
    values = _replaced(column, raw)
    if column.transform == "log1p":
        values = np.log1p(np.maximum(values, 0.0))
    elif column.transform == "standardise" and moments is not None:
        mean, deviation = moments
        values = (values - mean) / (deviation or 1.0)
    values = np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)
    return np.asarray(values, np.float32)


def _replaced(column: DenseColumn, raw: NDArray[Any]) -> NDArray[np.float64]:
    values: NDArray[np.float64] = np.asarray(raw, np.float64)
    if column.missing is not None:
        values = np.where(np.isnan(values), column.missing, values)
    return values


def _piecewise(
    column: DenseColumn, raw: NDArray[Any], edges: Sequence[float]
) -> NDArray[np.float32]:
    """Return how much of each bin is below a value, from 0 to 1, (bins, N); of NaN, 0.

    Gorishniy et al. 2022, arXiv 2203.05556; values beyond the training rows' count as their ends.
    """
    values = np.nan_to_num(_replaced(column, raw), nan=edges[0])
    encoded = np.zeros((column.width, len(values)), np.float32)
    for i, (low, high) in enumerate(pairwise(edges)):
        encoded[i] = np.clip((values - low) / (high - low), 0.0, 1.0)
    return encoded


def bin_rows(raw: NDArray[Any], edges: Sequence[float]) -> NDArray[np.int32]:
    """Return the row of each number in the table of a binned column.

    Bins include their lower end; the first and the last have no other end.
    """
    rows = np.searchsorted(np.asarray(edges[1:-1]), raw, side="right") + RESERVED_ROWS
    return np.where(np.isnan(raw), MISSING_ROW, rows).astype(np.int32)


def table_rows_of(edges: Sequence[float]) -> int:
    """Return the rows of the table of a binned column."""
    return RESERVED_ROWS + max(1, len(edges) - 1)


def columns_with_bins(schema: Schema) -> Iterator[tuple[str, DenseColumn | CategoricalColumn]]:
    """Yield the columns that need edges, and whether they are dense or categorical."""
    yield from ((DENSE, column) for column in schema.dense if column.bins)
    yield from ((CATEGORICAL, column) for column in schema.categorical if column.bins)
