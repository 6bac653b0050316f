"""Checks on caller-supplied arrays; each names the offending table, sample, column and value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.config.list_loss import MOST_RELEVANCE
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


def plain_array(values: Any, name: str, dtype: Any = None) -> NDArray[Any]:
    """Return ``values`` as an array. Raises ShapeError for a masked one."""
    refuse_masks(values, name)
    return np.asarray(values, dtype)


def refuse_masks(values: Any, name: str) -> None:
    """Raise ShapeError for a masked array, or lists of some, whose masks mean nothing.

    NumPy would drop the masks, and keep what is behind them.
    """
    kinds = {type(values)}
    if isinstance(values, (list, tuple)):
        kinds.update(map(type, values))
        for row in values if kinds & {list, tuple} else ():
            kinds.update(map(type, row) if isinstance(row, (list, tuple)) else ())
    if any(issubclass(kind, np.ma.MaskedArray) for kind in kinds):
        raise ShapeError(
            f"{name} is a masked array; fill() what is missing, or leave those rows out"
        )


_INDICES = frozenset(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"))
_NUMBERS = _INDICES | {"bool", "uint64", "float32", "float64"}


def check_numbers(values: NDArray[Any], name: str, dimensions: int) -> None:
    """Raise :class:`DataError` unless ``values`` are numbers that the kernels read.

    These are booleans, integers, float32 and float64 in the byte order of the machine.
    """
    _check_kind(values, name, dimensions, _NUMBERS, "numbers")


def check_indices(values: NDArray[Any], name: str, dimensions: int) -> None:
    """Raise :class:`DataError` unless ``values`` are integers that the kernels read as indices."""
    _check_kind(values, name, dimensions, _INDICES, "integers")


def _check_kind(
    values: NDArray[Any], name: str, dimensions: int, allowed: frozenset[str], what: str
) -> None:
    is_known = values.dtype.name in allowed and values.dtype.isnative
    if values.ndim != dimensions or not is_known:
        order = "" if values.dtype.isnative else " of another byte order"
        raise DataError(
            f"{name}: {values.dtype}{order} of shape {values.shape} found, expected {what} in "
            f"{dimensions} dimension{'s' if dimensions > 1 else ''}"
        )


def labels_of(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Return labels (N,), which may be stored as one column (N, 1); raises DataError for others."""
    if values.ndim == 2 and values.shape[1] == 1:
        return values.reshape(-1)
    if values.ndim != 1:
        raise DataError(f"{name} has shape {values.shape}, expected (N,) or (N, 1)")
    return values


def check_labels(
    labels: NDArray[Any], where: str, *, soft: bool = False, first_sample: int = 0
) -> None:
    """Raise :class:`DataError` for the first label (N,) that is neither 0 nor 1.

    With ``soft``, labels are probabilities from 0 to 1. ``where`` names the data.
    """
    good = (labels >= 0) & (labels <= 1) if soft else (labels == 0) | (labels == 1)
    if good.all():
        return
    sample = int(np.argmin(good))
    expected = "a number from 0 to 1" if soft else "0 or 1"
    if not soft and 0 <= labels[sample] <= 1:
        expected += "; soft_labels accepts probabilities"
    raise DataError(
        f"{where}, sample {first_sample + sample}: the label {labels[sample]} found, expected "
        f"{expected}"
    )


def check_lists(lists: NDArray[Any], rows: int, name: str = "offsets of lists") -> None:
    """Raise :class:`ShapeError` unless ``lists`` (L + 1,) divide the rows into lists.

    They run from 0 to ``rows``, without an empty list; ``name`` names them.
    """
    if lists.ndim != 1 or lists.dtype.kind not in "iu" or lists.size < 1:
        raise ShapeError(
            f"{name} must be integers in one dimension, not {lists.dtype} of shape {lists.shape}"
        )
    if lists[0] != 0 or lists[-1] != rows:
        raise ShapeError(
            f"{name} must run from 0 to the {rows} rows, not from {lists[0]} to {lists[-1]}"
        )
    wrong = np.flatnonzero(lists[1:] <= lists[:-1])  # a difference might wrap around
    if wrong.size:
        raise ShapeError(
            f"list {wrong[0]} must have rows, but its offsets are {lists[wrong[0]]} and "
            f"{lists[wrong[0] + 1]}"
        )


def check_relevance(relevance: NDArray[Any], where: str = "", first_row: int = 0) -> None:
    """Raise :class:`DataError` for the first relevance (N,) that is not from 0 to 100.

    ``where`` names the data.
    """
    wrong = np.flatnonzero(~((relevance >= 0) & (relevance <= MOST_RELEVANCE)))
    if wrong.size:
        origin = f"{where}: " if where else ""
        raise DataError(
            f"{origin}the relevance of row {first_row + int(wrong[0])} must be from 0 to "
            f"{MOST_RELEVANCE:g}, not {relevance[wrong[0]]}"
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
    falling = offsets[:, 1:] < offsets[:, :-1]  # a difference might wrap around
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


def check_sample_weights(weights: NDArray[Any] | None, where: str, first_sample: int = 0) -> None:
    """Raise DataError for the first weight of a sample that is negative or not finite."""
    if weights is None:
        return
    bad = np.flatnonzero(~((weights >= 0) & np.isfinite(weights)))
    if bad.size:
        raise DataError(
            f"{where}: sample {first_sample + int(bad[0])} has the weight {weights[bad[0]]}, but "
            "weights must be finite and not negative"
        )
