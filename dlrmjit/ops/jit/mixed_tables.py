"""Tables of several widths for the compiled backend: a group of tables per width.

Kernels are compiled for one width, so the tables of one width are stored together, looked up and
updated by one call. The pooled vectors of all tables are in one array (N, S, E), those of a table
of width d < E in the first d columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dlrmjit_kernels.embedding import update
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.row_optimizers import RowRule
from dlrmjit_kernels.embedding.storage import TableStorage
from dlrmjit_kernels.embedding.update import RowState
from numpy.typing import NDArray

from dlrmjit.autograd.sparse_gradient import Rate, SparseGradient
from dlrmjit.config.model import IN_MEMORY, TableConfig
from dlrmjit.config.optimizer import OptimizerConfig
from dlrmjit.ops.backend import FloatArray, Origin
from dlrmjit.ops.jit.optimizers import BagGradient, merge_lookups
from dlrmjit.precision import Precision, SplitArray


@dataclass(frozen=True)
class Group:
    """The tables of one width, and their indices among all tables."""

    table_ids: tuple[int, ...]
    tables: TableStorage


class MixedTables:
    """Tables of ``rows[s]`` rows and ``dims[s]`` columns, in groups of equal width."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = tuple(groups)
        for group in self.groups[1:]:  # groups are updated one after another
            group.tables.workspace = self.groups[0].tables.workspace
        stored = {
            table: (group.tables, i) for group in groups for i, table in enumerate(group.table_ids)
        }
        self._stored = [stored[table] for table in sorted(stored)]

    @classmethod
    def zeros(
        cls,
        rows: Sequence[int],
        dims: Sequence[int],
        precision: Precision = "fp32",
        config: TableConfig = IN_MEMORY,
    ) -> MixedTables:
        """Allocate zeroed tables."""
        groups = []
        for width in sorted(set(dims)):
            table_ids = tuple(s for s, dim in enumerate(dims) if dim == width)
            counts = [rows[s] for s in table_ids]
            tables = TableStorage(counts, width, config.directory, config.bounds, precision)
            groups.append(Group(table_ids, tables))
        return cls(groups)

    def __reduce__(self) -> tuple[Any, ...]:
        return MixedTables, (self.groups,)

    def __repr__(self) -> str:
        return f"MixedTables({', '.join(repr(group.tables) for group in self.groups)})"

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows M of each table."""
        return tuple(tables.rows[i] for tables, i in self._stored)

    @property
    def dims(self) -> tuple[int, ...]:
        """Columns of each table."""
        return tuple(tables.dim for tables, _ in self._stored)

    @property
    def dim(self) -> int:
        """Columns of the widest table."""
        return max(self.dims)

    @property
    def bounds(self) -> str:
        """How an index outside its table is handled."""
        return self.groups[0].tables.bounds

    @property
    def row_counts(self) -> NDArray[np.int64]:
        """Rows of each table as an array, for kernels."""
        return np.array(self.rows, np.int64)

    @property
    def placement(self) -> str:
        """Description of the memory that the tables are in."""
        return " and ".join(sorted({group.tables.placement for group in self.groups}))

    def __len__(self) -> int:
        return len(self._stored)

    def table(self, number: int) -> NDArray[np.float32] | SplitArray:
        """Return a writable view of one table (M, d)."""
        tables, i = self._stored[number]
        return tables.table(i)

    def initialise_uniform(self, seed: int, origins: Sequence[Origin] | None = None) -> None:
        """Draw every table as :meth:`TableStorage.initialise_uniform` does."""
        shapes = zip(self.rows, self.dims, strict=True)
        whole = origins or [Origin(s, *shape) for s, shape in enumerate(shapes)]
        for group in self.groups:
            group.tables.initialise_uniform(seed, [whole[s] for s in group.table_ids])

    def offsets(self, samples: int) -> list[NDArray[np.int64]]:
        """Allocate offsets (S, N + 1) for the bags of each group."""
        return [np.empty((len(group.table_ids), samples + 1), np.int64) for group in self.groups]

    def split(
        self, lookups: Lookups, offsets: Sequence[NDArray[np.int64]]
    ) -> list[tuple[TableStorage, Lookups]]:
        """Return each group's tables and lookups; writes their offsets to ``offsets``."""
        parts = []
        for group, part in zip(self.groups, offsets, strict=True):
            np.take(lookups.offsets, group.table_ids, axis=0, out=part, mode="clip")
            part_lookups = Lookups(lookups.indices, part, group.table_ids, lookups.weights)
            parts.append((group.tables, part_lookups))
        return parts

    def new_state(self, rule: RowRule) -> MixedState:
        """Allocate the states of a rule, one set per group."""
        return MixedState(
            tuple(group.table_ids for group in self.groups),
            tuple(update.new_state(group.tables, rule) for group in self.groups),
        )


@dataclass
class MixedState:
    """Optimizer state of mixed tables: the state of each group, and the tables in the group."""

    table_ids: tuple[tuple[int, ...], ...]
    states: tuple[RowState, ...]

    @property
    def tables(self) -> tuple[MixedTables, ...]:
        """One set of tables per state."""
        per_state = zip(*(state.tables for state in self.states), strict=True)
        return tuple(
            MixedTables([Group(*pair) for pair in zip(self.table_ids, tables, strict=True)])
            for tables in per_state
        )

    @property
    def steps(self) -> int:
        """Steps taken, the same for all groups."""
        return self.states[0].steps

    @steps.setter
    def steps(self, count: int) -> None:
        for state in self.states:
            state.steps = count


@dataclass(frozen=True)
class MixedBagGradient(SparseGradient):
    """Gradients of the groups' bags, all of which refer to one dY (N, S, E)."""

    parts: tuple[BagGradient, ...]

    def descend(self, tables: MixedTables, rate: float) -> None:
        """Plain SGD on the looked-up rows of every group."""
        for part, group in zip(self.parts, tables.groups, strict=True):
            part.descend(group.tables, rate)

    def update(
        self, tables: MixedTables, state: MixedState, config: OptimizerConfig, rate: Rate
    ) -> None:
        """Apply an optimizer to the looked-up rows of every group."""
        for part, group, part_state in zip(self.parts, tables.groups, state.states, strict=True):
            each = rate[list(group.table_ids)] if isinstance(rate, np.ndarray) else rate
            part.update(group.tables, part_state, config, each)

    def sum_of_squares(self, tables: MixedTables, scratch: dict[str, Any]) -> float:
        """Return the sum over all groups of the squares of the rows' gradients."""
        return sum(
            part.sum_of_squares(group.tables, scratch.setdefault(f"width {group.tables.dim}", {}))
            for part, group in zip(self.parts, tables.groups, strict=True)
        )

    def mean_squares(self, tables: MixedTables, means: MixedTables, weight_decay: float) -> None:
        """Write one value per looked-up row of every group."""
        for part, group, column in zip(self.parts, tables.groups, means.groups, strict=True):
            part.mean_squares(group.tables, column.tables, weight_decay)

    def merged(self, *others: MixedBagGradient) -> MixedBagGradient:
        """Return a copy of this gradient and those of other batches, again with one dY."""
        gradients = (self, *others)
        dY = np.concatenate([gradient.parts[0].dY for gradient in gradients])
        groups = zip(*(gradient.parts for gradient in gradients), strict=True)
        lookups = [merge_lookups([part.lookups for part in parts]) for parts in groups]
        pooling = self.parts[0].pooling
        return MixedBagGradient(tuple(BagGradient(part, dY, pooling) for part in lookups))

    def scale(self, factor: float) -> None:
        """Scale dY in place."""
        self.parts[0].scale(factor)

    def to_dense(self, tables: MixedTables) -> list[FloatArray]:
        """Return full arrays (M, d), one per table."""
        dense: list[FloatArray] = [np.empty(0)] * len(tables)
        for part, group in zip(self.parts, tables.groups, strict=True):
            for table, array in zip(group.table_ids, part.to_dense(group.tables), strict=True):
                dense[table] = array
        return dense
