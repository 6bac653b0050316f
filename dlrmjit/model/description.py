"""What ``repr`` says of a model: its tables, its parameters, how and where they are stored."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from dlrmjit.errors import format_gib, format_sizes

if TYPE_CHECKING:
    from dlrmjit.model.model import Model


def describe(model: Model) -> str:
    """Return one line: ``DLRM(26 tables of 3 to 500 rows x 16, 13 dense features, ...)``."""
    return f"{type(model).__name__}({', '.join(_facts(model))})"


def html_table(model: Model) -> str:
    """Return the same facts and all nodes, as tables for notebooks."""
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in _facts(model))
    architecture = model.architecture
    rows = "".join(
        f"<tr><td>{escape(node.name)}</td><td>{escape(node.kind)}</td>"
        f"<td>{escape(', '.join(node.inputs))}</td>"
        f"<td>{' x '.join(map(str, architecture.shapes[node.name]))}</td></tr>"
        for node in architecture.nodes
    )
    return (
        f"<b>{type(model).__name__}</b><ul>{facts}</ul><table><tr><th>node</th><th>kind</th>"
        f"<th>inputs</th><th>shape of a sample</th></tr>{rows}</table>"
    )


def _facts(model: Model) -> list[str]:
    architecture, specs = model.architecture, model.architecture.table_specs
    dims = sorted({spec.dim for spec in specs})
    width = "" if not dims else f" x {dims[0]}" + (f" to {dims[-1]}" if len(dims) > 1 else "")
    tables = format_sizes([spec.rows for spec in specs])
    elements = sum(spec.rows * spec.dim for spec in specs) + model.dense_elements
    return [
        f"{tables} rows{width}" if specs else "no tables",
        f"{architecture.dense_features} dense features",
        f"{elements:,} parameters ({format_gib(4 * elements)})",
        f"{model.precision}, {model.backend.name}",
        f"tables in {model.store.placement}",
    ]
