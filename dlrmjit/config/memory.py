"""Estimates the memory that training a model takes, before any of it is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.config.model import AnyModelConfig
from dlrmjit.config.optimizer import UpdateConfig

FLOAT_BYTES = 4


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of memory that one process needs to train a model, by purpose, and bytes of files."""

    tables: int
    mlp: int
    step: int
    optimizer: int = 0
    files: int = 0

    @property
    def total(self) -> int:
        """Bytes of memory of all purposes."""
        return self.tables + self.mlp + self.step + self.optimizer


def estimate_memory(
    config: AnyModelConfig,
    batch_size: int,
    lookups: int | Sequence[int] = 1,
    update: UpdateConfig | None = None,
    in_files: bool = False,
) -> MemoryEstimate:
    """Return the bytes of tables, of MLPs with their gradients, of a step, and of optimizer states.

    A step of ``batch_size`` samples counts what every node stores and as much for gradients, and
    ``lookups`` indices per bag (8 bytes each), one number or one per column, twice, as the update
    sorts them. Tables ``in_files``, and the optimizer states of their rows, take no memory.
    """
    model = config.architecture
    elements = sum(node.elements(model.input_shapes(node)) for node in model.nodes)
    per_sample = 2 * elements * FLOAT_BYTES
    per_column = [lookups] * model.tables if isinstance(lookups, int) else lookups
    indices = 2 * 8 * sum(per_column[table.column] for table in model.table_specs)
    update = update or UpdateConfig()
    tables = model.table_parameters * FLOAT_BYTES
    row_states = _row_state_elements(model, update) * FLOAT_BYTES
    mlp_states = len(update.mlps.states) * model.dense_parameters * FLOAT_BYTES
    return MemoryEstimate(
        tables=0 if in_files else tables,
        mlp=2 * model.dense_parameters * FLOAT_BYTES,
        step=batch_size * (per_sample + indices),
        optimizer=mlp_states + (0 if in_files else row_states),
        files=tables + row_states if in_files else 0,
    )


def _row_state_elements(model: Architecture, update: UpdateConfig) -> int:
    """Return the elements of the tables' optimizer states, and of what clipping needs."""
    per_row = len(update.tables.row_states) + (update.clip_norm > 0)
    per_element = len(update.tables.table_states)
    rows = sum(table.rows for table in (*model.table_specs, *model.row_weight_specs))
    return per_element * model.table_parameters + per_row * rows
