"""A model as a list of named nodes, checked as a whole.

The last node is the logit, of width 1. Training adds the loss, which is a setting of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from dlrmjit.architecture.dynamic_ids import DynamicIds
from dlrmjit.architecture.node import Node, ParameterSpec, Shape, node_from_dict
from dlrmjit.architecture.nodes.dense import Dense
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.architecture.table_spec import TableSpec
from dlrmjit.errors import ConfigError


@dataclass(frozen=True)
class Architecture:
    """A model: ``nodes`` in an order in which each follows its inputs; the last one is the logit.

    With ``dynamic``, the ids of some columns are any integers, and their tables have at most the
    rows that the nodes say.

    Raises
    ------
    ConfigError
        For the first node that does not fit, and for nodes that no logit needs.
    """

    nodes: tuple[Node, ...]
    dynamic: DynamicIds | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        if not self.nodes:
            raise ConfigError("a model needs nodes, but none is given")
        self._check_names()
        if self.shapes[self.output] != (1,):
            raise ConfigError(
                f"the last node, {self.output!r}, is the logit and must have width 1, not shape "
                f"{self.shapes[self.output]}"
            )
        self._check_inputs()
        if self.dynamic is not None:
            self._check_dynamic(self.dynamic)

    def _check_names(self) -> None:
        seen: set[str] = set()
        for node in self.nodes:
            if node.name in seen:
                raise ConfigError(f"two nodes are called {node.name!r}; give each its name")
            unknown = [name for name in node.inputs if name not in seen]
            if unknown:
                raise ConfigError(
                    f"node {node.name!r} has the input {unknown[0]!r}, but no node before it has "
                    "that name"
                )
            seen.add(node.name)
        used = {name for node in self.nodes for name in node.inputs} | {self.output}
        unused = [node.name for node in self.nodes if node.name not in used]
        if unused:
            raise ConfigError(f"node {unused[0]!r} is the input of no node; use it or leave it out")

    def _check_inputs(self) -> None:
        if sum(isinstance(node, Dense) for node in self.nodes) > 1:
            raise ConfigError("a model has one dense node, which has all dense features")
        rows: dict[int, TableSpec] = {}
        for table in self.table_specs:
            other = rows.setdefault(table.column, table)
            if other.column_rows != table.column_rows:
                raise ConfigError(
                    f"{other.name} has {other.column_rows} rows and {table.name} "
                    f"{table.column_rows}, but both look up column {table.column}"
                )
        missing = set(range(len(rows))) - set(rows)
        if missing:
            raise ConfigError(
                f"no table looks up column {min(missing)}, but one looks up column {max(rows)}; "
                "number the columns from 0"
            )

    def _check_dynamic(self, dynamic: DynamicIds) -> None:
        columns = dynamic.columns
        if not columns or len(set(columns)) < len(columns) or not set(columns) <= set(self.columns):
            raise ConfigError(
                f"dynamic ids are of some of the columns 0 to {self.tables - 1}, not of {columns}"
            )
        for table in self.table_specs:
            if table.column not in columns:
                continue
            kinds = {
                "a mean of bags": table.mean,
                "quotient-remainder tables": table.divisor or table.modulus,
                "learned weights of pooling": self.is_learned(table.node),
            }
            refused = next((name for name, has_it in kinds.items() if has_it), "")
            if refused:
                raise ConfigError(
                    f"dynamic ids cannot be combined with {refused}, as {table.name} has; leave "
                    "one of the two out"
                )

    def refuse_dynamic(self, what: str) -> None:
        """Raise ConfigError for a model with dynamic ids, of which ``what`` knows nothing."""
        if self.dynamic is not None:
            raise ConfigError(
                f"{what} is for models whose tables have fixed rows, but ids of the columns "
                f"{', '.join(map(str, self.dynamic.columns))} of this one are dynamic"
            )

    @property
    def columns(self) -> range:
        """All categorical columns."""
        return range(self.tables)

    @property
    def architecture(self) -> Architecture:
        """This value itself, as other configurations of models have it."""
        return self

    @property
    def output(self) -> str:
        """Name of the node of the logit."""
        return self.nodes[-1].name

    def node(self, name: str) -> Node:
        """Return the node of that name."""
        return next(node for node in self.nodes if node.name == name)

    @cached_property
    def shapes(self) -> Mapping[str, Shape]:
        """Shape of one sample of every node's result."""
        shapes: dict[str, Shape] = {}
        for node in self.nodes:
            shapes[node.name] = node.shape([shapes[name] for name in node.inputs])
        return shapes

    def input_shapes(self, node: Node) -> tuple[Shape, ...]:
        """Return the shapes of a node's inputs."""
        return tuple(self.shapes[name] for name in node.inputs)

    def consumers(self, name: str) -> tuple[Node, ...]:
        """Return the nodes of which a node is an input."""
        return tuple(node for node in self.nodes if name in node.inputs)

    def only_consumer(self, name: str) -> Node | None:
        """Return the node of which a node is an input, if there is one, and it is so once."""
        consumers = self.consumers(name)
        if len(consumers) != 1 or consumers[0].inputs.count(name) != 1:
            return None
        return consumers[0]

    @cached_property
    def trained(self) -> frozenset[str]:
        """Names of the nodes whose result depends on a parameter or table."""
        names: set[str] = set()
        for node in self.nodes:
            has_own = isinstance(node, Embedding) or self.parameters_of(node)
            if has_own or names & set(node.inputs):
                names.add(node.name)
        return frozenset(names)

    def parameters_of(self, node: Node) -> tuple[ParameterSpec, ...]:
        """Return a node's parameters, tables and normalisations excluded."""
        return node.parameters(self.input_shapes(node))

    @property
    def embeddings(self) -> tuple[Embedding, ...]:
        """The nodes that have tables."""
        return tuple(node for node in self.nodes if isinstance(node, Embedding))

    @cached_property
    def table_specs(self) -> tuple[TableSpec, ...]:
        """All stored tables of all nodes, in order; learned weights of pooling excluded."""
        return tuple(table for node in self.embeddings for table in node.tables)

    @property
    def needs_lists(self) -> bool:
        """Whether a row's result depends on its list, so that batches must have lists."""
        return any(node.needs_lists for node in self.nodes)

    def is_learned(self, name: str) -> bool:
        """Return whether the embedding node called ``name`` has learned weights of pooling."""
        return any(node.name == name and node.learned for node in self.embeddings)

    @cached_property
    def row_weight_specs(self) -> tuple[TableSpec, ...]:
        """The learned weights of pooling of all nodes."""
        return tuple(table for node in self.embeddings for table in node.row_weights)

    @cached_property
    def dense_features(self) -> int:
        """Number of dense features, D."""
        return next((node.features for node in self.nodes if isinstance(node, Dense)), 0)

    @cached_property
    def table_rows(self) -> tuple[int, ...]:
        """Number of values of each categorical column."""
        rows = {table.column: table.column_rows for table in self.table_specs}
        return tuple(rows[column] for column in sorted(rows))

    @property
    def tables(self) -> int:
        """Number of categorical columns, S."""
        return len(self.table_rows)

    @property
    def dense_parameters(self) -> int:
        """Number of elements of all parameters but the tables."""
        norms = sum(2 * norm.columns for node in self.nodes for norm in node.norms())
        specs = (spec for node in self.nodes for spec in self.parameters_of(node))
        return norms + sum(spec.elements for spec in specs)

    @property
    def table_parameters(self) -> int:
        """Number of elements of all embedding tables, learned weights of pooling included."""
        specs = (*self.table_specs, *self.row_weight_specs)
        return sum(table.rows * table.dim for table in specs)

    def with_values(self, name: str, **values: Any) -> Architecture:
        """Return the model with other values of the node called ``name``.

        Raises ConfigError if the node has no such value, or the others do not fit it any more.
        """
        try:
            changed = replace(self.node(name), **values)
        except TypeError as error:
            raise ConfigError(f"node {name!r}: {error}") from error
        return replace(self, nodes=tuple(changed if n.name == name else n for n in self.nodes))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, which :meth:`from_dict` reads back."""
        nodes = {"nodes": [node.to_dict() for node in self.nodes]}
        return nodes if self.dynamic is None else {**nodes, "dynamic": self.dynamic.to_dict()}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Architecture:
        """Build a model from :meth:`to_dict`'s result; raises ConfigError if it is none."""
        nodes = description.get("nodes")
        if not isinstance(nodes, Sequence) or not set(description) <= {"nodes", "dynamic"}:
            raise ConfigError(
                f"not a model description: it has {', '.join(map(str, description))} instead of "
                "nodes"
            )
        dynamic = DynamicIds.of(description.get("dynamic"))
        return cls(tuple(node_from_dict(node) for node in nodes), dynamic)
