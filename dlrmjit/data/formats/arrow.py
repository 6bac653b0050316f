"""The import of pyarrow, an optional dependency that reads and writes Parquet."""

from __future__ import annotations

from typing import Any

from dlrmjit.errors import ConfigError


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
