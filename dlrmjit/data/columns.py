"""Raw columns of a DataFrame or an array, encoded as a model's dense values and ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.validate import plain_array
from dlrmjit.errors import DataError, ShapeError

UNKNOWN, MISSING, FIRST = 0, 1, 2
"""Rows of a table for values that training did not have, for none, and from where values are."""


_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class DenseColumn:
    """A numeric column: standardised, large deviations compressed; a missing value becomes 0."""

    mean: float
    deviation: float

    @classmethod
    def fitted(cls, values: NDArray[Any]) -> DenseColumn:
        """Return the column with the moments of its finite ``values`` (N,)."""
        x = as_numbers(values)
        x = x[np.isfinite(x)]
        mean, deviation = (float(x.mean()), float(x.std())) if x.size else (0.0, 0.0)
        return cls(mean, deviation if deviation > 1e-12 * max(1.0, abs(mean)) else 0.0)

    def encode(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return (N,) float32."""
        if not self.deviation:
            return np.zeros(len(values), np.float32)
        z = (np.asarray(values, np.float64) - self.mean) / self.deviation
        z = np.where(np.isnan(z), 0.0, z)
        tails = np.sign(z) * (2 + np.log1p(np.maximum(np.abs(z) - 2, 0)))
        return np.where(np.abs(z) > 2, tails, z).astype(np.float32)


@dataclass(frozen=True)
class CategoricalColumn:
    """A column of values by which it looks up rows of a table."""

    rows_of: dict[Any, int]

    @classmethod
    def fitted(cls, values: Sequence[Any]) -> CategoricalColumn:
        """Return the column with the distinct values as they appear."""
        rows: dict[Any, int] = {}
        for value in values:
            if not is_missing(value) and (key := key_of(value)) not in rows:
                rows[key] = FIRST + len(rows)
        return cls(rows)

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return FIRST + len(self.rows_of)

    def encode(self, values: Sequence[Any]) -> NDArray[np.int64]:
        """Return ids (N,)."""
        known = self.rows_of
        return np.array(
            [MISSING if is_missing(v) else known.get(key_of(v), UNKNOWN) for v in values], np.int64
        )


def key_of(value: Any) -> Any:
    """Return what a value is compared by: numbers by value, everything else as text."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)) and not isinstance(value, np.timedelta64):
        return int(value)  # not by way of a float, in which two large ids may be one
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return int(number) if number.is_integer() else number
    return str(value)


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN or pandas' NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and bool(np.isnan(value))


@dataclass(frozen=True)
class Columns:
    """All columns of the training data, by position."""

    kinds: tuple[DenseColumn | CategoricalColumn, ...]

    @property
    def table_rows(self) -> tuple[int, ...]:
        """Rows of every table."""
        return tuple(kind.rows for kind in self.kinds if isinstance(kind, CategoricalColumn))

    @property
    def dense_features(self) -> int:
        """Number of numeric columns."""
        return sum(isinstance(kind, DenseColumn) for kind in self.kinds)

    @classmethod
    def fitted(cls, columns: Sequence[NDArray[Any]], categorical: Sequence[bool]) -> Columns:
        """Return the columns with what encoding needs to know of the training values."""
        pairs = zip(columns, categorical, strict=True)
        return cls(
            tuple(
                CategoricalColumn.fitted(values.tolist()) if is_id else DenseColumn.fitted(values)
                for values, is_id in pairs
            )
        )

    def encode(self, columns: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return dense values (N, D) float32 and ids (N, S)."""
        n = len(columns[0])
        dense, ids = [], []
        for kind, values in zip(self.kinds, columns, strict=True):
            if isinstance(kind, DenseColumn):
                dense.append(kind.encode(as_numbers(values)))
            else:
                ids.append(kind.encode(values.tolist()))
        return (
            np.stack(dense, axis=1) if dense else np.empty((n, 0), np.float32),
            np.stack(ids, axis=1) if ids else np.empty((n, 0), np.int64),
        )


def as_numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return numbers (N,). Raises DataError for anything else."""
    try:
        if values.dtype.kind == "O":
            values = np.array([np.nan if is_missing(v) else v for v in values])
        if values.dtype.kind in "cmM":
            raise TypeError("complex numbers, or times")
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        known = (int, float, type(None))
        wrong = next((v for v in values if not isinstance(v, known)), f"type {values.dtype}")
        raise DataError(
            f"{wrong!r:.40} found in a column of numbers; name it in categorical_features"
        ) from None
    except OverflowError:
        raise DataError(
            "an integer beyond float64 found in a column of numbers; name it in "
            "categorical_features"
        ) from None
    large = np.isfinite(numbers) & (np.abs(numbers) > _LARGEST)
    if large.any():
        raise DataError(f"{numbers[large][0]:g} found in a column, beyond the numbers of float32")
    return numbers


RawColumns = tuple[list[str], list[NDArray[Any]], list[bool]]
"""Names of columns, their values (N,), and whether each has numbers."""


def of_frame(frame: Any) -> RawColumns:
    """Return the columns of a DataFrame of pandas or polars."""
    names = [str(name) for name in frame.columns]
    columns = [np.asarray(frame[name], object) for name in frame.columns]
    return names, columns, [_is_numeric_type(frame[name].dtype) for name in frame.columns]


def of_table(rows: Any) -> RawColumns:
    """Return the columns of a DataFrame or of an array (N, columns). Raises ShapeError."""
    if hasattr(rows, "columns") and hasattr(rows, "dtypes"):
        return of_frame(rows)
    array = plain_array(rows, "rows", None if hasattr(rows, "dtype") else object)
    if array.ndim != 2:
        raise ShapeError(f"rows must have shape (N, columns), not {array.shape}")
    columns = [np.ascontiguousarray(array[:, i]) for i in range(array.shape[1])]
    return [str(i) for i in range(len(columns))], columns, [is_numeric(c) for c in columns]


def kinds_of(names: Sequence[str], numeric: Sequence[bool], categorical: Any) -> list[bool]:
    """Return which columns are categorical: those without numbers, and those that are named.

    ``categorical`` is ``auto``, or lists names or positions. Raises ValueError for others.
    """
    if isinstance(categorical, str):
        if categorical != "auto":
            raise ValueError(
                "categorical_features must be 'auto' or a list of names or positions, not "
                f"{categorical!r}"
            )
        return [not kind for kind in numeric]
    named = {str(name) for name in categorical}
    unknown = named - set(names) - {str(i) for i in range(len(names))}
    if unknown:
        raise ValueError(f"categorical_features: there is no column {sorted(unknown)[0]!r}")
    return [
        name in named or (str(i) in named and str(i) not in names) or not numeric[i]
        for i, name in enumerate(names)
    ]


def _is_numeric_type(dtype: Any) -> bool:
    """Return whether a column of a DataFrame has numbers; pandas' categories of numbers do not."""
    is_numeric = getattr(dtype, "is_numeric", None)  # of polars
    return bool(is_numeric()) if is_numeric else getattr(dtype, "kind", "O") in "iuf"


def is_numeric(column: NDArray[Any]) -> bool:
    """Return whether a column of an array has numbers."""
    if column.dtype.kind in "iuf":
        return True
    if column.dtype.kind != "O":
        return False
    return all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in column)
