"""The import of pyarrow, an optional dependency that reads and writes Parquet, and its values."""

from __future__ import annotations

from typing import Any

from dlrmjit.errors import ConfigError, DataError


def require_arrow(instead: str, what: str = "Parquet files need") -> tuple[Any, Any]:
    """Return the modules pyarrow and pyarrow.parquet.

    Raises ConfigError if they are not installed; ``instead`` says what to do without them.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(f"{what} pyarrow: pip install 'dlrmjit[data]', or {instead}") from None
    return pyarrow, parquet


def python_values(column: Any, name: str) -> list[Any]:
    """Return a column, a list or an Arrow array, as a list of Python's values.

    Raises DataError for values that Python has no type for, such as days after the year 9999.
    """
    if isinstance(column, list):
        return column
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"column {name!r} has a value of type {column.type} that Python cannot hold: {error}"
        ) from None
