"""The ends of the bins of numbers: quantiles of the distinct values of the training rows.

Quantiles of all values would be one number, over and over, where a column is mostly that number.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from dlrmjit_kernels.runtime.splitmix import mix
from numpy.typing import NDArray

from dlrmjit.data.dense_transform import Edges, columns_with_bins
from dlrmjit.data.prepare.files.column_file import Column
from dlrmjit.data.prepare.files.staging import Staging, slices
from dlrmjit.data.prepare.journal import Journal
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.stages.split import TRAIN, Splitter
from dlrmjit.data.prepare.team import Team
from dlrmjit.data.schema import DenseColumn

STAGE = "bins"
MOST_VALUES = 1 << 18
"""Distinct values that are in memory; of more, a sample that depends on nothing but the values."""
_SLICE = 1 << 18
_ALL = np.uint64(2**64 - 1)


def find_edges(
    options: PrepareOptions, staging: Staging, journal: Journal, splitter: Splitter, team: Team
) -> Edges:
    """Return the ends of the bins of all columns, those in the journal if it has them.

    A column of n bins has at most n + 1 ends, ascending; fewer if it has fewer distinct values. A
    column without values has the ends 0 and 1.
    """
    noted: dict[str, dict[str, list[float]]] = journal.stage(STAGE).get("edges", {})
    schema = options.schema
    if schema is None or noted:
        return noted
    positions = {column.name: i for i, column in enumerate(schema.numbers)}
    binned = list(columns_with_bins(schema))

    def find(number: int) -> list[float]:
        _, column = binned[number]
        missing = column.missing if isinstance(column, DenseColumn) else None
        with staging.dense(positions[column.name]) as file:
            values = _distinct(_training_values(file, splitter, missing))
        return edges_of(values, column.bins or 1)

    found = dict(team.map(find, range(len(binned))))
    for number, (kind, column) in enumerate(binned):
        noted.setdefault(kind, {})[column.name] = found[number]
    if noted:
        journal.note(STAGE, {"edges": noted}, now=True)
    return noted


def _training_values(
    file: Column, splitter: Splitter, missing: float | None
) -> Iterator[NDArray[np.float64]]:
    """Yield the values of training rows by slice, with missing ones replaced or left out."""
    part = np.empty(_SLICE, np.float64)
    for start, end in slices(len(file), _SLICE):
        raw = part[: end - start]
        file.read(start, raw)
        values = raw[splitter.codes(start, end) == TRAIN]
        if missing is not None:
            values = np.where(np.isnan(values), missing, values)
        yield values[~np.isnan(values)]


def _distinct(
    slices_: Iterator[NDArray[np.float64]], most: int = MOST_VALUES
) -> NDArray[np.float64]:
    """Return the distinct values, ascending; of more than ``most``, a sample with both ends.

    Sampled are the values whose mixed bits are below a limit, which is halved until they fit: that
    depends neither on the order of the values nor on how often each occurs.
    """
    found, limit = np.empty(0), _ALL
    ends = np.array([np.inf, -np.inf])
    for values in slices_:
        if not len(values):
            continue
        distinct = np.unique(values + 0.0)  # -0.0 is 0.0
        ends = np.array([min(ends[0], distinct[0]), max(ends[1], distinct[-1])])
        found = np.union1d(found, distinct[_mixed(distinct) <= limit])
        while len(found) > most:
            limit >>= np.uint64(1)
            found = found[_mixed(found) <= limit]
    return np.union1d(found, ends) if np.isfinite(ends[0]) else found


def _mixed(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    mixed: NDArray[np.uint64] = mix(np.ascontiguousarray(values).view(np.uint64))
    return mixed


def edges_of(values: NDArray[np.float64], bins: int) -> list[float]:
    """Return the ends of at most ``bins`` bins with equally many of the ascending ``values``.

    The last end is the largest value, or beyond it if that has a bin of its own.
    """
    if not len(values):
        return [0.0, 1.0]
    count = min(bins, len(values))
    lows = values[np.arange(count) * len(values) // count]
    largest = float(values[-1])
    last = largest if largest > lows[-1] else largest + max(1.0, abs(largest))
    return [*map(float, lows), last]
