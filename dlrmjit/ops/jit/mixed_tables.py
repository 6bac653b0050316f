"""Tables of several widths for the compiled backend: a set of tables per width.

Kernels are compiled for one width, so tables of one width lie together and are looked up and
updated by one call. Pooled vectors of all stand in one block (N, S, E), those of a table of
width d < E in the first d columns of its slot.
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
from dlrmjit_kernels.runtime.workspace import Workspace
from numpy.typing import NDArray

from dlrmjit.autograd.sparse_gradient import SparseGradient
from dlrmjit.config.model import IN_MEMORY, TableConfig
from dlrmjit.config.optimizer import OptimizerConfig
from dlrmjit.ops.backend import FloatArray, Origin
from dlrmjit.ops.jit.optimizers import BagGradient, merge_lookups
from dlrmjit.precision import Precision, SplitArray


@dataclass(frozen=True)
class Group:
    """The tables of one width, and their numbers among all."""

    numbers: tuple[int, ...]
    tables: TableStorage


class MixedTables:
    """Tables of ``rows[s]`` rows and ``dims[s]`` columns, in groups of equal width."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = tuple(groups)
        places = [(number, group, i) for group in groups for i, number in enumerate(group.numbers)]
        self._places = [(group.tables, i) for _, group, i in sorted(places, key=lambda p: p[0])]

    @classmethod
    def zeros(
        cls,
        rows: Sequence[int],
        dims: Sequence[int],
        precision: Precision = "fp32",
        config: TableConfig = IN_MEMORY,
    ) -> MixedTables:
        """Zeroed tables; the groups are used one after another and share their workspace."""
        workspace, groups = Workspace(), []
        for width in sorted(set(dims)):
            numbers = tuple(s for s, dim in enumerate(dims) if dim == width)
            own = [rows[s] for s in numbers]
            tables = TableStorage(own, width, config.directory, config.bounds, precision)
            tables.workspace = workspace
            groups.append(Group(numbers, tables))
        return cls(groups)

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows M of each table."""
        return tuple(tables.rows[i] for tables, i in self._places)

    @property
    def dims(self) -> tuple[int, ...]:
        """Columns of each table."""
        return tuple(tables.dim for tables, _ in self._places)

    @property
    def dim(self) -> int:
        """Columns of the widest table."""
        return max(self.dims)

    @property
    def bounds(self) -> str:
        """What is done with an index outside its table."""
        return self.groups[0].tables.bounds

    @property
    def row_counts(self) -> NDArray[np.int64]:
        """Rows of each table, for kernels."""
        return np.array(self.rows, np.int64)

    @property
    def placement(self) -> str:
        """In words, what the tables lie on."""
        return " and ".join(sorted({group.tables.placement for group in self.groups}))

    def __len__(self) -> int:
        return len(self._places)

    def table(self, number: int) -> NDArray[np.float32] | SplitArray:
        """A writable view of one table (M, d)."""
        tables, i = self._places[number]
        return tables.table(i)

    def initialise_uniform(self, seed: int, origins: Sequence[Origin] | None = None) -> None:
        """Draw every table as :meth:`TableStorage.initialise_uniform` does."""
        shapes = zip(self.rows, self.dims, strict=True)
        given = origins or [Origin(s, *shape) for s, shape in enumerate(shapes)]
        for group in self.groups:
            group.tables.initialise_uniform(seed, [given[s] for s in group.numbers])

    def offsets(self, samples: int) -> list[NDArray[np.int64]]:
        """Room for the offsets (S, N + 1) of each group's bags."""
        return [np.empty((len(group.numbers), samples + 1), np.int64) for group in self.groups]

    def split(
        self, lookups: Lookups, offsets: Sequence[NDArray[np.int64]]
    ) -> list[tuple[TableStorage, Lookups]]:
        """Each group's tables and its part of the lookups, whose offsets go to ``offsets``."""
        found = []
        for group, own in zip(self.groups, offsets, strict=True):
            np.take(lookups.offsets, group.numbers, axis=0, out=own, mode="clip")
            found.append((group.tables, Lookups(lookups.indices, own, group.numbers)))
        return found

    def new_state(self, rule: RowRule) -> MixedState:
        """Fresh memory of an optimiser, of each group its own."""
        return MixedState(
            tuple(group.numbers for group in self.groups),
            tuple(update.new_state(group.tables, rule) for group in self.groups),
        )


@dataclass
class MixedState:
    """What an optimiser remembers of mixed tables: the state of each group of these numbers."""

    numbers: tuple[tuple[int, ...], ...]
    states: tuple[RowState, ...]

    @property
    def tables(self) -> tuple[MixedTables, ...]:
        """One set of tables for every thing remembered."""
        kept = zip(*(state.tables for state in self.states), strict=True)
        return tuple(
            MixedTables([Group(*pair) for pair in zip(self.numbers, tables, strict=True)])
            for tables in kept
        )

    @property
    def steps(self) -> int:
        """Steps taken, by all groups alike."""
        return self.states[0].steps

    @steps.setter
    def steps(self, count: int) -> None:
        for state in self.states:
            state.steps = count


@dataclass(frozen=True)
class MixedBagGradient(SparseGradient):
    """Gradients of the groups' bags, which all lie in one dY (N, S, E)."""

    parts: tuple[BagGradient, ...]

    def descend(self, tables: MixedTables, rate: float) -> None:
        """SGD on the touched rows of every group."""
        for part, group in zip(self.parts, tables.groups, strict=True):
            part.descend(group.tables, rate)

    def update(
        self, tables: MixedTables, state: MixedState, config: OptimizerConfig, rate: float
    ) -> None:
        """Any optimiser on the touched rows of every group."""
        for part, group, own in zip(self.parts, tables.groups, state.states, strict=True):
            part.update(group.tables, own, config, rate)

    def square(self, tables: MixedTables, memory: dict[str, Any]) -> float:
        """Sum over the groups of the squares of the rows' gradients."""
        return sum(
            part.square(group.tables, memory.setdefault(f"width {group.tables.dim}", {}))
            for part, group in zip(self.parts, tables.groups, strict=True)
        )

    def mean_squares(self, tables: MixedTables, means: MixedTables, weight_decay: float) -> None:
        """One value per touched row of every group."""
        for part, group, own in zip(self.parts, tables.groups, means.groups, strict=True):
            part.mean_squares(group.tables, own.tables, weight_decay)

    def merged(self, *others: MixedBagGradient) -> MixedBagGradient:
        """A copy of this gradient and those of other batches, again over one dY."""
        every = (self, *others)
        dY = np.concatenate([gradient.parts[0].dY for gradient in every])
        groups = zip(*(gradient.parts for gradient in every), strict=True)
        lookups = [merge_lookups([part.lookups for part in parts]) for parts in groups]
        return MixedBagGradient(tuple(BagGradient(own, dY) for own in lookups))

    def scale(self, factor: float) -> None:
        """Scale the one dY in place."""
        self.parts[0].scale(factor)

    def to_dense(self, tables: MixedTables) -> list[FloatArray]:
        """Full arrays (M, d), one per table."""
        dense: list[FloatArray] = [np.empty(0)] * len(tables)
        for part, group in zip(self.parts, tables.groups, strict=True):
            for number, array in zip(group.numbers, part.to_dense(group.tables), strict=True):
                dense[number] = array
        return dense
