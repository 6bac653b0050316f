"""The store of a model's embedding tables in one process, in memory or in files.

A model is handed a store and asks it for nothing but what :class:`TableStore` says, so that the
same model runs on tables of this process, or on shards on many ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.architecture.table_spec import TableSpec
from dlrmjit.autograd.tape import Parameter, Variable
from dlrmjit.config.model import IN_MEMORY, TableConfig
from dlrmjit.data.batch import Batch
from dlrmjit.data.validate import check_index_range
from dlrmjit.errors import ConfigError
from dlrmjit.model.dynamic import DynamicRows, Place
from dlrmjit.model.lookups import of_columns, of_positions, of_tables
from dlrmjit.model.torch_rng import TorchStream
from dlrmjit.ops.backend import Backend, Lookups, Origin, StoredArray
from dlrmjit.ops.bounds import apply_bounds
from dlrmjit.precision import Precision

if TYPE_CHECKING:
    from dlrmjit.model.graph import NodeRecording

_INIT_CHUNK = 1 << 20  # elements drawn at a time, so that no large table is ever copied to float64


class Port(Protocol):
    """The lookups of one graph."""

    @property
    def totals(self) -> Mapping[str, int]:
        """Columns W of nodes of which sums (N, W) arrive instead of vectors."""

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

    def table_names(self) -> Mapping[str, tuple[str, ...]]:
        """Return the names of each parameter's tables, by the parameter's name.

        They are those of whole tables also where a parameter has shards.
        """

    @property
    def dynamic(self) -> DynamicRows | None:
        """The rows of dynamic ids, if the model has any."""

    def init_from_rng(self, rng: np.random.RandomState, stream: TorchStream) -> None:
        """Draw all tables from ``rng``, number by number in the order of the tables.

        Tables of quotients and of remainders are drawn from ``stream`` instead.
        """

    def init_from_counter(self, seed: int) -> None:
        """Draw all tables from one seed, in parallel."""

    def values(self) -> Iterable[StoredArray]:
        """Return the tables, or the shards of them in this process, without weights of pooling."""

    def stored(self) -> dict[str, StoredArray]:
        """Return all whole tables by name; views, if they are in this process."""

    def load(self, state: Mapping[str, StoredArray]) -> None:
        """Overwrite all tables by those of ``state``."""

    def port(self, n: int) -> Port:
        """Return the lookups of a new graph, for batches of ``n`` samples on all ranks."""


MakeStore = Callable[[Architecture, Backend, Precision], TableStore]


class LocalTables:
    """All tables in this process: one parameter per embedding node.

    A node with learned weights of pooling has a second one, of tables of one column.
    """

    def __init__(
        self,
        architecture: Architecture,
        backend: Backend,
        precision: Precision = "fp32",
        config: TableConfig = IN_MEMORY,
    ) -> None:
        config = bounds_of(architecture, config)
        self._architecture, self._backend, self._config = architecture, backend, config
        nodes = architecture.embeddings
        self.nodes = {
            node.name: table_parameter(
                backend,
                node.name,
                node.tables,
                precision,
                config,
                node.pooled_shape[1] if node.is_combined else node.dim,
            )
            for node in nodes
        }
        self.row_weights = {
            node.name: table_parameter(
                backend, f"{node.name}.pooling", node.row_weights, "fp32", config
            )
            for node in nodes
            if node.learned
        }
        self.dynamic = self._dynamic()

    def _dynamic(self) -> DynamicRows | None:
        dynamic, specs = self._architecture.dynamic, self._architecture.table_specs
        if dynamic is None:
            return None
        places: dict[int, list[Place]] = {column: [] for column in dynamic.columns}
        for t, spec in enumerate(specs):
            if spec.column in places:
                origin = Origin(t, spec.rows, spec.dim)
                places[spec.column].append(
                    Place(self.nodes[spec.node], spec.slot, origin, self._is_drawn(spec.node))
                )
        return DynamicRows(self._backend, dynamic, places)

    def _is_drawn(self, name: str) -> bool:
        nodes = self._architecture.embeddings
        return any(node.name == name and node.initial != "zeros" for node in nodes)

    @property
    def placement(self) -> str:
        """Description of the memory that the tables are in."""
        found = {parameter.data.placement for parameter in self.parameters()}
        return " and ".join(sorted(found)) or "no pages"

    def parameters(self) -> tuple[Parameter, ...]:
        """Return one parameter per embedding node, then those of weights of pooling."""
        return (*self.nodes.values(), *self.row_weights.values())

    def table_names(self) -> Mapping[str, tuple[str, ...]]:
        """Return the names of each parameter's tables, by the parameter's name."""
        return {parameter.name: parameter.table_names for parameter in self.parameters()}

    def init_from_rng(self, rng: np.random.RandomState, stream: TorchStream) -> None:
        """Draw the tables in order: uniformly in +- sqrt(1 / M), quotients and remainders else.

        Those with dynamic rows are drawn row by row, from a seed that is drawn before all tables.
        """
        self._start_dynamic(drawn_seed(self._architecture, rng))
        for node in self._drawn():
            for table in node.tables:
                if is_dynamic(self._architecture, table):
                    continue
                flat = self.nodes[node.name].data.table(table.slot).reshape(-1)
                draw = drawn_by_reference(node, table, rng, stream)
                for first in range(0, flat.size, _INIT_CHUNK):
                    part = flat[first : first + _INIT_CHUNK]
                    part[...] = draw(part.size)

    def init_from_counter(self, seed: int) -> None:
        """Draw every element from the seed and its position, of dynamic rows their id."""
        self._start_dynamic(seed)
        specs = self._architecture.table_specs
        for node in self._drawn():
            whole = [
                Origin(t, spec.rows, spec.dim)
                for t, spec in enumerate(specs)
                if spec.node == node.name
            ]
            tables = self.nodes[node.name].data
            self._backend.initialise(tables, seed, whole)
            for table in node.tables:
                spread_combined(tables.table(table.slot), table)

    def _start_dynamic(self, seed: int) -> None:
        if self.dynamic is not None:
            self.dynamic.start(seed)

    def _drawn(self) -> list[Embedding]:
        """Return the nodes whose tables are drawn; all others are zero, weights of rows 1."""
        for parameter in self.row_weights.values():
            for s in range(len(parameter.table_names)):
                parameter.data.table(s)[...] = 1
        for node in self._architecture.embeddings:
            if node.initial == "zeros":
                for table in node.tables:
                    self.nodes[node.name].data.table(table.slot)[...] = 0
        return [node for node in self._architecture.embeddings if node.initial != "zeros"]

    def values(self) -> Iterable[StoredArray]:
        """Return the tables (M, d), without weights of pooling."""
        return [self.nodes[s.node].data.table(s.slot) for s in self._architecture.table_specs]

    def stored(self) -> dict[str, StoredArray]:
        """Return views of all tables by name, then of the weights of pooling (M, 1).

        Of tables with dynamic rows only those that were ever used; the ids follow, as copies.
        """
        tables = {
            name: rows_in_use(parameter, s)
            for parameter in self.parameters()
            for s, name in enumerate(parameter.table_names)
        }
        return tables if self.dynamic is None else {**tables, **self.dynamic.stored()}

    def load(self, state: Mapping[str, StoredArray]) -> None:
        """Overwrite all tables."""
        if self.dynamic is not None:
            self.dynamic.load(state)
        for parameter in self.parameters():
            for s, name in enumerate(parameter.table_names):
                rows_in_use(parameter, s)[...] = state[name]

    def port(self, n: int) -> LocalPort:
        """Return the lookups of a new graph."""
        return LocalPort(self, self._architecture, self._backend, self._config.bounds)


def rows_in_use(parameter: Parameter, slot: int) -> StoredArray:
    """Return a view of a table, of one with dynamic rows of those that were ever used."""
    table: StoredArray = parameter.data.table(slot)
    return table[: parameter.rows_in_use[slot]] if parameter.rows_in_use else table


def bounds_of(architecture: Architecture, config: TableConfig) -> TableConfig:
    """Return how tables treat the indices that they are passed.

    With dynamic rows they leave out lookups of row -1, which ids without a row have; other columns
    are checked before. Raises ConfigError for other bounds.
    """
    if architecture.dynamic is None:
        return config
    if config.bounds != "raise":
        raise ConfigError(
            f"indices outside their tables cannot be treated by {config.bounds!r} in a model with "
            "dynamic ids, which ids without a row are treated by; leave bounds out"
        )
    return replace(config, bounds="ignore")


def is_dynamic(architecture: Architecture, table: TableSpec) -> bool:
    """Return whether ids decide on the rows of a table."""
    return architecture.dynamic is not None and table.column in architecture.dynamic.columns


def drawn_seed(architecture: Architecture, rng: np.random.RandomState) -> int:
    """Return a seed of dynamic rows, drawn only if there are any."""
    return 0 if architecture.dynamic is None else int(rng.randint(0, 2**63, dtype=np.int64))


def table_parameter(
    backend: Backend,
    name: str,
    specs: Sequence[TableSpec],
    precision: Precision,
    config: TableConfig = IN_MEMORY,
    width: int = 0,
) -> Parameter:
    """Return a parameter of zeroed tables of these sizes.

    Their pooled vectors are ``width`` wide, by default as the tables, if those are of one width.
    """
    dims = [spec.dim for spec in specs]
    widths: int | list[int] = dims[0] if set(dims) == {width or dims[0]} else dims
    data: Any = backend.tables([spec.rows for spec in specs], widths, precision, config)
    return Parameter(data, name, table_names=[spec.name for spec in specs])


def drawn_by_reference(
    node: Embedding, table: TableSpec, rng: np.random.RandomState, stream: TorchStream
) -> Callable[[int], Any]:
    """Return what draws the next elements of a table as the reference program does.

    It overwrites what PyTorch drew for a table by NumPy's numbers, but leaves PyTorch's for
    quotients and remainders: uniform from sqrt(1 / M) to 1, M the values of the column.
    """
    low = np.sqrt(1 / table.column_rows)
    if is_combined(table):
        return partial(stream.uniform, low=low, high=1.0)
    if node.is_combined:
        stream.skip_normal(table.rows * table.dim)
    return partial(rng.uniform, -low, low)


def is_combined(table: TableSpec) -> bool:
    """Return whether a table has quotients or remainders."""
    return bool(table.divisor or table.modulus)


def spread_combined(values: StoredArray, table: TableSpec) -> None:
    """Map numbers within +- sqrt(1 / rows) to those that a table of quotients or remainders has.

    ``values`` are the table or a part of it. Those of other tables stay as they are.
    """
    if not is_combined(table):
        return
    low, bound = np.float32(np.sqrt(1 / table.column_rows)), np.sqrt(1 / table.rows)
    scale = np.float32((1 - low) / (2 * bound))
    step = max(1, _INIT_CHUNK // values.shape[1])
    for first in range(0, len(values), step):
        part = np.asarray(values[first : first + step])
        values[first : first + step] = (part + part.dtype.type(bound)) * scale + low


class _SameLookups(NamedTuple):
    """The first of the nodes with the same lookups, its tables, and the variables of all."""

    node: Embedding
    tables: Any
    variables: list[Variable]


class LocalPort:
    """Lookups in tables of this process, by node."""

    totals: Mapping[str, int] = {}

    def __init__(
        self, tables: LocalTables, architecture: Architecture, backend: Backend, bounds: str
    ) -> None:
        self._tables, self._backend, self._bounds = tables, backend, bounds
        self._architecture, self._training = architecture, False
        self._columns = tuple(range(architecture.tables))
        self._groups: dict[tuple[Any, ...], _SameLookups] = {}

    def record(self, recording: NodeRecording, node: Embedding) -> Variable:
        """Record one lookup operation."""
        lookups, tables = Variable(), self._tables.nodes[node.name]
        self._training = recording.training
        same = node.columns, node.rows, node.collisions, node.positions
        group = self._groups.setdefault(same, _SameLookups(node, tables.data, []))
        group.variables.append(lookups)
        inputs = [tables, lookups]
        if node.learned:
            inputs.append(self._tables.row_weights[node.name])
        is_pooled = not node.is_combined and not node.positions
        out = recording.out if is_pooled else None
        summed = recording.summed and is_pooled
        pooled: Variable = recording.apply(
            "embedding_bag", *inputs, out=out, pooling=node.pooling, summed=summed
        )
        return pooled

    def load(self, batch: Batch) -> None:
        """Set the lookups of every node; nodes with the same ones share them."""
        batch = self._with_rows(batch)
        for node, tables, variables in self._groups.values():
            lookups = self._backend.lookups(tables, self._bags(node, batch))
            for variable in variables:
                variable.data = lookups

    def _with_rows(self, batch: Batch) -> Batch:
        """Return a batch that looks up rows where its ids are dynamic."""
        dynamic = self._tables.dynamic
        if dynamic is None:
            return batch
        batch.check_indices(self._architecture.table_rows, dynamic.columns)
        given = Lookups(batch.indices, batch.offsets, batch.weights)
        found = dynamic.rows_of(given, dynamic.columns, training=self._training)
        return Batch.unchecked(batch.dense, *found[:2], batch.labels, found.weights)

    def _bags(self, node: Embedding, batch: Batch) -> Lookups:
        """Return the lookups in a node's stored tables.

        Indices are checked here where the kernels would name a table by its number in the node, or
        see a row of quotients and of remainders.
        """
        is_pooled = not node.is_combined and not node.positions
        if node.columns == self._columns and is_pooled:
            return Lookups(batch.indices, batch.offsets, batch.weights)
        found = of_columns(batch, node.columns)
        if self._bounds == "raise":  # with dynamic ids, indices were checked before
            for i, (column, rows) in enumerate(zip(node.columns, node.rows, strict=True)):
                offsets = found.offsets[i]
                indices = found.indices[offsets[0] : offsets[-1]]
                check_index_range(column, indices, offsets - offsets[0], rows)
        if node.positions:
            return of_positions(found, node.positions)
        if not node.is_combined:
            return found
        if self._bounds != "raise":
            found = apply_bounds(found, node.rows, self._bounds)
        return of_tables(found, node.tables, node.columns)
