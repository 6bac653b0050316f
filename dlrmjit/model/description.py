"""What ``repr`` says of a model: its tables, its parameters, how and where they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlrmjit.errors import format_gib, format_sizes

if TYPE_CHECKING:
    from dlrmjit.model.model import Model


def describe(model: Model) -> str:
    """Return one line: ``DLRM(26 tables of 3 to 500 rows x 16, 13 dense features, ...)``."""
    architecture, specs = model.architecture, model.architecture.table_specs
    dims = sorted({spec.dim for spec in specs})
    width = "" if not dims else f" x {dims[0]}" + (f" to {dims[-1]}" if len(dims) > 1 else "")
    tables = format_sizes([spec.rows for spec in specs])
    elements = sum(spec.rows * spec.dim for spec in specs) + model.dense_elements
    parts = [
        f"{tables} rows{width}" if specs else "no tables",
        f"{architecture.dense_features} dense features",
        f"{elements:,} parameters ({format_gib(4 * elements)})",
        f"{model.precision}, {model.backend.name}",
        f"tables in {model.store.placement}",
    ]
    return f"{type(model).__name__}({', '.join(parts)})"
