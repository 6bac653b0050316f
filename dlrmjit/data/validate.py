"""Checks on caller-supplied arrays; each names the offending table, sample, column and value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.errors import ConfigError, DataError, IndexRangeError, ShapeError


def check_finite(dense: NDArray[np.float32], first_sample: int = 0) -> None:
    """Raise :class:`DataError` for the first NaN or infinity in ``dense`` (N, D)."""
    finite = np.isfinite(dense)
    if not finite.all():
        sample, column = np.argwhere(~finite)[0]
        raise DataError(
            f"dense sample {first_sample + sample}, column {column}: "
            f"{dense[sample, column]} is not a finite number"
        )


def check_offsets(offsets: NDArray[np.int64], n: int, lookups: int) -> None:
    """Raise :class:`ShapeError` unless ``offsets`` (S, N + 1) divide ``lookups`` into bags."""
    if offsets.shape[1] != n + 1:
        raise ShapeError(
            f"offsets of {n} samples must have {n + 1} columns, not {offsets.shape[1]}"
        )
    _check_rising(offsets)
    _check_tables_meet(offsets, lookups)


def _check_rising(offsets: NDArray[np.int64]) -> None:
    falling = np.diff(offsets, axis=1) < 0
    if falling.any():
        s, b = np.argwhere(falling)[0]
        raise ShapeError(
            f"table {s}, sample {b}: offsets decrease from {offsets[s, b]} to {offsets[s, b + 1]}"
        )


def _check_tables_meet(offsets: NDArray[np.int64], lookups: int) -> None:
    ends = np.concatenate(([0], offsets[:, -1]))
    starts = np.append(offsets[:, 0], lookups)
    wrong = np.flatnonzero(ends != starts)
    if wrong.size:
        s = int(wrong[0])
        where = f"table {s} starts at" if s < len(offsets) else "the indices end at"
        raise ShapeError(f"{where} {starts[s]}, but the lookups before it end at {ends[s]}")


def check_index_range(
    table: int, indices: NDArray[Any], offsets: NDArray[np.int64], rows: int
) -> None:
    """Raise :class:`IndexRangeError` for the first of one table's ``indices`` outside ``rows``.

    ``offsets`` (N + 1,) starts at 0 and gives the sample of each index.
    """
    if not indices.size or (indices.min() >= 0 and indices.max() < rows):
        return
    position = int(np.flatnonzero((indices < 0) | (indices >= rows))[0])
    sample = int(np.searchsorted(offsets, position, side="right")) - 1
    raise IndexRangeError(table, sample, int(indices[position]), rows)


def check_positive(value: int, name: str) -> int:
    """Return ``value``, or raise :class:`ConfigError` naming it when it is below 1."""
    if value < 1:
        raise ConfigError(f"{name} must be at least 1, not {value}")
    return value


def check_not_negative(value: int, name: str) -> int:
    """Return ``value``, or raise :class:`ConfigError` naming it when it is below 0."""
    if value < 0:
        raise ConfigError(f"{name} must not be negative, not {value}")
    return value


def check_table_rows(table_rows: Sequence[int]) -> tuple[int, ...]:
    """Return the rows of each table as integers; raise ConfigError unless all are at least 1."""
    check_positive(len(table_rows), "number of tables")
    return tuple(
        check_positive(int(rows), f"rows of table {s}") for s, rows in enumerate(table_rows)
    )


def check_fraction(value: float, name: str) -> float:
    """Return ``value``, or raise :class:`ConfigError` naming it when it is not within 0 to 1."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} must be between 0 and 1, not {value}")
    return value
