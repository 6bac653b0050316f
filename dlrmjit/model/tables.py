"""The store of a model's embedding tables in one process, in memory or in files.

A model is handed a store and asks it for nothing but what :class:`TableStore` says, so that the
same model runs on tables of this process, or on shards on many ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.autograd.tape import Parameter, Variable
from dlrmjit.config.model import IN_MEMORY, TableConfig
from dlrmjit.data.batch import Batch
from dlrmjit.data.validate import check_index_range
from dlrmjit.ops.backend import Backend, Origin, StoredArray
from dlrmjit.precision import Precision

if TYPE_CHECKING:
    from dlrmjit.model.graph import NodeRecording

_INIT_CHUNK = 1 << 20  # elements drawn at a time, so that no large table is ever copied to float64


class Port(Protocol):
    """The lookups of one graph."""

    def record(self, recording: NodeRecording, node: Embedding) -> Variable:
        """Record the pooled vectors (N, S, E) of a node."""

    def load(self, batch: Batch) -> None:
        """Set the lookups of the next replay."""


class TableStore(Protocol):
    """The embedding tables of a model, wherever they are."""

    @property
    def placement(self) -> str:
        """Description of the memory that the tables are in."""

    def parameters(self) -> tuple[Parameter, ...]:
        """Return the parameters of tables that this process updates."""

    def init_from_rng(self, rng: np.random.RandomState) -> None:
        """Draw all tables from ``rng``, number by number in the order of the tables."""

    def init_from_counter(self, seed: int) -> None:
        """Draw all tables from one seed, in parallel."""

    def values(self) -> Iterable[StoredArray]:
        """Return the tables, or the shards of them in this process."""

    def stored(self) -> dict[str, StoredArray]:
        """Return all whole tables by name; views, if they are in this process."""

    def load(self, state: Mapping[str, StoredArray]) -> None:
        """Overwrite all tables by those of ``state``."""

    def port(self, n: int) -> Port:
        """Return the lookups of a new graph, for batches of ``n`` samples on all ranks."""


MakeStore = Callable[[Architecture, Backend, Precision], TableStore]


class LocalTables:
    """All tables in this process: one parameter per embedding node."""

    def __init__(
        self,
        architecture: Architecture,
        backend: Backend,
        precision: Precision = "fp32",
        config: TableConfig = IN_MEMORY,
    ) -> None:
        self._architecture, self._backend, self._config = architecture, backend, config
        self.nodes = {
            node.name: Parameter(
                backend.tables(node.rows, node.dims or node.dim, precision, config),
                node.name,
                is_sparse=True,
            )
            for node in architecture.embeddings
        }

    @property
    def placement(self) -> str:
        """Description of the memory that the tables are in."""
        found = {parameter.data.placement for parameter in self.nodes.values()}
        return " and ".join(sorted(found)) or "no pages"

    def parameters(self) -> tuple[Parameter, ...]:
        """Return one parameter per embedding node."""
        return tuple(self.nodes.values())

    def init_from_rng(self, rng: np.random.RandomState) -> None:
        """Draw the tables in order, uniformly in +- sqrt(1 / M)."""
        for node in self._drawn():
            for s, rows in enumerate(node.rows):
                bound = np.sqrt(1 / rows)
                flat = self.nodes[node.name].data.table(s).reshape(-1)
                for first in range(0, flat.size, _INIT_CHUNK):
                    part = flat[first : first + _INIT_CHUNK]
                    part[...] = rng.uniform(-bound, bound, part.size)

    def init_from_counter(self, seed: int) -> None:
        """Draw every element from the seed and its position."""
        specs = self._architecture.table_specs
        for node in self._drawn():
            whole = [
                Origin(t, spec.rows, spec.dim)
                for t, spec in enumerate(specs)
                if spec.node == node.name
            ]
            self._backend.initialise(self.nodes[node.name].data, seed, whole)

    def _drawn(self) -> list[Embedding]:
        """Return the nodes whose tables are drawn; all others are zero."""
        for node in self._architecture.embeddings:
            if node.initial == "zeros":
                for s in range(len(node.rows)):
                    self.nodes[node.name].data.table(s)[...] = 0
        return [node for node in self._architecture.embeddings if node.initial != "zeros"]

    def values(self) -> Iterable[StoredArray]:
        """Return the tables (M, d)."""
        return self.stored().values()

    def stored(self) -> dict[str, StoredArray]:
        """Return views of all tables by name."""
        return {
            spec.name: self.nodes[spec.node].data.table(spec.slot)
            for spec in self._architecture.table_specs
        }

    def load(self, state: Mapping[str, StoredArray]) -> None:
        """Overwrite all tables."""
        for name, table in self.stored().items():
            table[...] = state[name]

    def port(self, n: int) -> LocalPort:
        """Return the lookups of a new graph."""
        return LocalPort(self, self._architecture, self._backend, self._config.bounds == "raise")


class LocalPort:
    """Lookups in tables of this process, by node."""

    def __init__(
        self, tables: LocalTables, architecture: Architecture, backend: Backend, raises: bool
    ) -> None:
        self._tables, self._backend, self._raises = tables, backend, raises
        self._columns = tuple(range(architecture.tables))
        self._lookups: list[tuple[Embedding, Variable, Any]] = []

    def record(self, recording: NodeRecording, node: Embedding) -> Variable:
        """Record one lookup operation."""
        lookups, tables = Variable(), self._tables.nodes[node.name]
        self._lookups.append((node, lookups, tables.data))
        pooled: Variable = recording.apply("embedding_bag", tables, lookups, out=recording.out)
        return pooled

    def load(self, batch: Batch) -> None:
        """Set the lookups of every node."""
        for node, lookups, tables in self._lookups:
            lookups.data = self._backend.lookups(tables, *self._bags(node, batch))

    def _bags(self, node: Embedding, batch: Batch) -> tuple[Any, Any]:
        """Return the indices and offsets of a node's columns."""
        if node.columns == self._columns:
            return batch.indices, batch.offsets
        parts = [batch.table(column) for column in node.columns]
        if self._raises:  # the kernels would name the table by its number in the node
            for column, rows, part in zip(node.columns, node.rows, parts, strict=True):
                check_index_range(column, *part, rows)
        starts = np.cumsum([0, *(len(indices) for indices, _ in parts)])[:-1]
        offsets = [offsets + start for (_, offsets), start in zip(parts, starts, strict=True)]
        return np.concatenate([indices for indices, _ in parts]), np.stack(offsets)
