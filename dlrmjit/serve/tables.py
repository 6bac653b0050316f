"""Tables of a served model in fewer bits, as ``--tables`` asks."""

from __future__ import annotations

from dlrmjit.errors import ConfigError
from dlrmjit.model.model import Model
from dlrmjit.model.tables import LocalTables
from dlrmjit.ops.jit.read_only_tables import Reduced, read_only


def reduce_tables(model: Model, kind: Reduced) -> None:
    """Replace the tables of a model, which can then only predict, by rounded ones.

    Raises ConfigError for another backend than ``jit``.
    """
    if model.backend.name != "jit" or not isinstance(model.store, LocalTables):
        raise ConfigError(f"--tables {kind} needs the backend jit, not {model.backend.name}")
    for node in model.architecture.embeddings:
        if kind == "int8" and (node.pooling != "sum" or node.learned):
            raise ConfigError(
                f"--tables int8 sums the rows of bags without weights, but node {node.name!r} has "
                "means or learned weights; use bf16"
            )
    for parameter in model.store.nodes.values():
        parameter.data = read_only(model.backend, parameter.data, kind)


def table_bytes(model: Model, kind: str) -> int:
    """Return the bytes of a model's tables in ``fp32``, ``bf16`` or ``int8``."""
    bits = {"fp32": 32, "bf16": 16, "int8": 8}[kind]
    scale, unit = (1, 4) if kind == "int8" else (0, 0)
    specs = model.architecture.table_specs
    return sum(spec.rows * (spec.dim * bits // 8 + scale) + unit for spec in specs)
