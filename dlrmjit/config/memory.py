"""Estimates the memory that training a model takes, before any of it is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from dlrmjit.config.model import ModelConfig
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
    config: ModelConfig,
    batch_size: int,
    lookups: int = 1,
    update: UpdateConfig | None = None,
    in_files: bool = False,
) -> MemoryEstimate:
    """Return the bytes of tables, of MLPs with their gradients, of a step, and of optimiser states.

    A step of ``batch_size`` samples counts the activations of every layer and their gradients, the
    interacting features, and ``lookups`` indices per bag (8 bytes each) twice, as the update sorts
    them. Tables ``in_files``, and the optimiser states of their rows, take no memory.
    """
    widths = [*config.mlp_bottom, config.interaction_width, *config.mlp_top]
    widths += [config.features * config.embedding_dim, *config.projections.values()]
    per_sample = 2 * sum(widths) * FLOAT_BYTES
    indices = 2 * 8 * config.tables * lookups
    update = update or UpdateConfig()
    tables = config.table_parameters * FLOAT_BYTES
    row_states = _row_state_elements(config, update) * FLOAT_BYTES
    mlp_states = len(update.mlps.states) * config.mlp_parameters * FLOAT_BYTES
    return MemoryEstimate(
        tables=0 if in_files else tables,
        mlp=2 * config.mlp_parameters * FLOAT_BYTES,
        step=batch_size * (per_sample + indices),
        optimizer=mlp_states + (0 if in_files else row_states),
        files=tables + row_states if in_files else 0,
    )


def _row_state_elements(config: ModelConfig, update: UpdateConfig) -> int:
    """Return the elements of the tables' optimiser states, and of what clipping needs."""
    per_row = len(update.tables.row_states) + (update.clip_norm > 0)
    per_element = len(update.tables.table_states)
    return per_element * config.table_parameters + per_row * sum(config.table_rows)
