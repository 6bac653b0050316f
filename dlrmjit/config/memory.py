"""The memory that training a model takes, counted before any of it is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from dlrmjit.config.model import ModelConfig
from dlrmjit.config.optimizer import UpdateConfig

FLOAT_BYTES = 4


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of memory a training process of one model needs, by what they are for; and of files."""

    tables: int
    mlp: int
    step: int
    optimizer: int = 0
    files: int = 0

    @property
    def total(self) -> int:
        """All that is to be in memory."""
        return self.tables + self.mlp + self.step + self.optimizer


def estimate_memory(
    config: ModelConfig,
    batch_size: int,
    lookups: int = 1,
    update: UpdateConfig | None = None,
    in_files: bool = False,
) -> MemoryEstimate:
    """Bytes of tables, of MLP parameters with gradients, and of a step of ``batch_size`` samples.

    The step counts activations and their gradients of every layer, the interacting features,
    and ``lookups`` indices per bag (8 bytes each) twice, as the update sorts them; the
    optimiser what it remembers of every parameter. Tables ``in_files``, and what is remembered
    of their rows, take no memory of their own.
    """
    widths = [*config.mlp_bottom, config.interaction_width, *config.mlp_top]
    widths += [config.features * config.embedding_dim, *config.projections.values()]
    per_sample = 2 * sum(widths) * FLOAT_BYTES
    indices = 2 * 8 * config.tables * lookups
    update = update or UpdateConfig()
    tables = config.table_parameters * FLOAT_BYTES
    of_rows = _row_state_elements(config, update) * FLOAT_BYTES
    of_mlps = len(update.mlps.states) * config.mlp_parameters * FLOAT_BYTES
    return MemoryEstimate(
        tables=0 if in_files else tables,
        mlp=2 * config.mlp_parameters * FLOAT_BYTES,
        step=batch_size * (per_sample + indices),
        optimizer=of_mlps + (0 if in_files else of_rows),
        files=tables + of_rows if in_files else 0,
    )


def _row_state_elements(config: ModelConfig, update: UpdateConfig) -> int:
    """Elements of the tables' optimiser states, and those that clipping needs."""
    per_row = len(update.tables.row_states) + (update.clip_norm > 0)
    per_element = len(update.tables.table_states)
    return per_element * config.table_parameters + per_row * sum(config.table_rows)
