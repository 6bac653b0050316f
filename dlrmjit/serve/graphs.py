"""Graphs of a model that compute once what the rows of a query share.

Nodes that read dense features only, such as the bottom MLP, and the bags of a user's tables are
computed by a small graph with one row per query. The graph of the rows is given their results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.nodes.dense import Dense
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.autograd.tape import Rule, Step, Variable
from dlrmjit.data.batch import Batch
from dlrmjit.model.graph import Graph, NodeRecording
from dlrmjit.model.model import Model
from dlrmjit.model.tables import Port


class Shared(NamedTuple):
    """The rows ``begin`` to ``end`` of a batch that belong to query ``number``, and its tables."""

    begin: int
    end: int
    number: int
    tables: tuple[int, ...]


def dense_only(architecture: Architecture) -> frozenset[str]:
    """Return the names of the nodes that depend on dense features of a row alone, but ``Dense``."""
    dense = {node.name for node in architecture.nodes if isinstance(node, Dense)}
    found: set[str] = set()
    for node in architecture.nodes:
        if node.inputs and not node.needs_lists and set(node.inputs) <= dense | found:
            found.add(node.name)
    return frozenset(found - {architecture.output})


class _PartialGraph(Graph):
    """A graph of some of the nodes; the results of the others are set from outside."""

    def __init__(self, model: Model, n: int, skipped: frozenset[str], port: Port | None) -> None:
        self._skipped = skipped
        super().__init__(model, n, port=port)

    def is_recorded(self, name: str) -> bool:
        """Return whether a node is computed here."""
        return name not in self._skipped


class UserGraph(_PartialGraph):
    """What depends on a user alone, for ``n`` users: nodes over dense features, pooled vectors."""

    def __init__(self, model: Model, n: int) -> None:
        architecture = model.architecture
        self.outputs = dense_only(architecture)
        kept = self.outputs | {
            node.name for node in architecture.nodes if isinstance(node, (Dense, Embedding))
        }
        self.pooled: dict[str, Variable] = {}
        port = _Pooled(model.store.port(n), self.pooled)
        super().__init__(
            model, n, frozenset({node.name for node in architecture.nodes} - kept), port
        )

    def results(self, batch: Batch) -> None:
        """Compute everything for a batch of users."""
        self.load(batch)
        self.tape.forward()


class RowGraph(_PartialGraph):
    """The graph of rows; with ``shares_dense`` the nodes over dense features are given."""

    def __init__(self, model: Model, n: int, shares_dense: bool) -> None:
        skipped = dense_only(model.architecture) if shares_dense else frozenset[str]()
        self._given = skipped
        self._spread = _Spread(model.store.port(n))
        super().__init__(model, n, skipped, self._spread)

    def give(self, user: UserGraph, counts: NDArray[np.int64]) -> None:
        """Repeat the results of user ``i`` for ``counts[i]`` rows, and the last for all others."""
        backend = self.model.backend
        counts = np.append(counts[:-1], self.n - counts[:-1].sum())
        for name in self._given:
            if any(consumer.name not in self._given for consumer in self._consumers(name)):
                values = backend.to_numpy(user.values[name].data)[: len(counts)]
                variable = self.values[name]
                variable.data = backend.refill(variable.data, np.repeat(values, counts, axis=0))

    def _consumers(self, name: str) -> Sequence[Any]:
        return self.model.architecture.consumers(name)

    def share(self, user: UserGraph | None, shared: Sequence[Shared]) -> None:
        """Take the pooled vectors of the tables of ``shared`` from the user's graph."""
        self._spread.user, self._spread.shared = user, shared


class _Pooled:
    """A port that notes the variable of the pooled vectors of every node."""

    totals: Mapping[str, int] = {}

    def __init__(self, port: Port, pooled: dict[str, Variable]) -> None:
        self._port, self._pooled = port, pooled

    def record(self, recording: NodeRecording, node: Embedding) -> Variable:
        """Record the lookups of a node."""
        recording.summed = False  # the vectors themselves are copied to rows
        variable = self._pooled[node.name] = self._port.record(recording, node)
        return variable

    def load(self, batch: Batch) -> None:
        """Set the lookups of the next replay."""
        self._port.load(batch)


class _Spread:
    """A port that adds to the lookups of rows the pooled vectors of their users' tables."""

    totals: Mapping[str, int] = {}

    def __init__(self, port: Port) -> None:
        self._port = port
        self.user: UserGraph | None = None
        self.shared: Sequence[Shared] = ()

    def record(self, recording: NodeRecording, node: Embedding) -> Variable:
        """Record the lookups of a node, and what writes the vectors of users over empty bags."""
        rule = Rule("user_vectors", self._forward, _no_gradient)
        recording.summed = False
        return recording.record(rule, self._port.record(recording, node), node=node)

    def load(self, batch: Batch) -> None:
        """Set the lookups of the next replay."""
        self._port.load(batch)

    def _forward(self, step: Step) -> Any:
        (pooled,), node = step.values, step.options["node"]
        if self.user is not None:
            of_users, of_rows = (
                _by_sample(node, each) for each in (self.user.pooled[node.name].data, pooled)
            )
            for begin, end, number, tables in self.shared:
                for slot, table in enumerate(node.tables):
                    if table.column in tables:
                        slots = slice(0, node.positions) if node.positions else slot
                        of_rows[begin:end, slots] = of_users[number, slots]
        return pooled


def _by_sample(node: Embedding, vectors: Any) -> Any:
    """Return the vectors (N, S, E) that a node looked up, as a view."""
    if not node.positions:
        return vectors
    return vectors.reshape(len(vectors) // node.positions, node.positions, node.dim)


def _no_gradient(step: Step, gradient: Any) -> tuple[()]:
    return ()  # these graphs only predict
