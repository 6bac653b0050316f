"""Exchange sums instead of vectors, for nodes that need nothing but sums over the vectors.

Every rank adds up the vectors of its shards for all N samples; the sums are added where the samples
are, and the total sums with the gradient of the node's result are sent to all ranks, of which each
makes the gradients of its rows (Rong et al., arXiv 1909.04823). What travels does not depend on
the number of tables.

The first layer of an MLP over concatenated vectors is such a node: what is added up are products of
vectors with the columns of its weight that belong to them. Each rank has those of its own tables,
updates them by itself, and no gradient of them travels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.first_layer import FirstLayer, first_layer_over
from dlrmjit.architecture.node import Node
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.data.batch import Batch
from dlrmjit.data.batch_shard import starts_of
from dlrmjit.errors import ConfigError, DataError
from dlrmjit.ops.backend import FloatArray
from dlrmjit.ops.partial_sums import KINDS, LAYER, columns_of, from_exact
from dlrmjit.parallel.comm import Comm, Request
from dlrmjit.parallel.plan import Plan


@dataclass(frozen=True)
class Operator:
    """Sums over an embedding node's vectors, and their columns among those of all operators.

    ``kind`` is that of the node that sums the vectors. The one column of ``fm`` after its sums may
    be that of a node ``partner``: both are terms of the same sum, and so are their parts. Products
    have a ``layer``.
    """

    node: str
    kind: str
    dim: int
    columns: tuple[int, ...]
    partner: str = ""
    layer: FirstLayer | None = None

    @property
    def key(self) -> str:
        """The name of what arrives: the node, or the layer."""
        return self.layer.key if self.layer else self.node


def operators(architecture: Architecture, names: Sequence[str]) -> tuple[Operator, ...]:
    """Return the operators of the embedding nodes called ``names``."""
    found: list[Operator] = []
    width = 0
    for node in architecture.embeddings:
        if node.name not in names:
            continue
        consumer, layer = _uses(architecture, node)
        if consumer is not None:
            kind = consumer.kind
            partner = _partner(architecture, consumer, found) if kind == "fm" else None
            own = columns_of(kind, node.dim) - (partner is not None)
            columns = tuple(range(width, width + own)) + (partner.columns if partner else ())
            width += own
            name = partner.node if partner else ""
            found.append(Operator(node.name, kind, node.dim, columns, name))
        if layer is not None:
            columns = tuple(range(width, width + layer.outputs))
            width += layer.outputs
            found.append(Operator(node.name, LAYER, layer.outputs, columns, layer=layer))
    return tuple(found)


def layers_of(found: Sequence[Operator]) -> tuple[FirstLayer, ...]:
    """Return the first layers of which products are exchanged."""
    return tuple(operator.layer for operator in found if operator.layer is not None)


def width_of(found: Sequence[Operator]) -> int:
    """Return the number of columns of all operators."""
    return 1 + max((column for operator in found for column in operator.columns), default=-1)


def substitutable(architecture: Architecture, plan: Plan) -> tuple[str, ...]:
    """Return the embedding nodes of which a plan allows sums to be exchanged.

    Their tables have one width and no learned weights. Each is whole or split by rows, or on all
    ranks; of a first layer it is whole, or split by columns if there is nothing else.
    """
    kinds: dict[str, set[str]] = {}
    for t, spec in enumerate(architecture.table_specs):
        kinds.setdefault(spec.node, set()).add(plan.placements[t].kind)
    return tuple(
        node.name
        for node in architecture.embeddings
        if kinds[node.name] <= _allowed(architecture, node)
    )


def _allowed(architecture: Architecture, node: Embedding) -> set[str]:
    """Return the kinds of placement with which sums of a node may be exchanged."""
    consumer, layer = _uses(architecture, node)
    if node.projections or node.is_combined or node.learned:
        return set()
    if layer is not None:
        return {"whole"} if consumer else {"whole", "columns"}
    return {"whole", "rows", "replicated"} if consumer else set()


def require_substitutable(architecture: Architecture, plan: Plan) -> None:
    """Raise ConfigError naming a node of which the plan exchanges sums, but cannot."""
    allowed = substitutable(architecture, plan)
    for name in plan.substituted:
        if name not in allowed:
            raise ConfigError(
                f"the plan exchanges sums of {name!r}, but this needs an embedding node of tables "
                "of one width, whole or split by rows, of which one other node needs only sums, or "
                "whole tables of which a first layer does; here these are: "
                f"{', '.join(allowed) or 'none'}"
            )


def _uses(architecture: Architecture, node: Embedding) -> tuple[Node | None, FirstLayer | None]:
    """Return what needs only sums over a node's vectors: a node, a first layer, or both.

    Neither if anything else needs the vectors.
    """
    layer = first_layer_over(architecture, node.name)
    consumers = architecture.consumers(node.name)
    others = [n for n in consumers if layer is None or n.name != layer.joined]
    if not others:
        return None, layer
    (consumer, *more) = others
    if more or consumer.inputs.count(node.name) > 1 or consumer.kind not in KINDS:
        return None, None
    return consumer, layer


def _partner(architecture: Architecture, pairs: Node, found: Sequence[Operator]) -> Operator | None:
    """Return an operator whose one column is added to the same sum as the result of ``pairs``."""
    total = architecture.only_consumer(pairs.name)
    for other in found:
        is_term = other.kind == "sum" and len(other.columns) == 1
        if total and is_term and architecture.only_consumer(other.node) == total:
            return other
    return None


class SumExchange:
    """The exchange of sums for one batch size: ``partial`` (N, W) is to be filled by each rank.

    Nothing is sent of sums without columns. ``exact`` sums are in fixed point, with a column more.
    """

    def __init__(
        self, comm: Comm, sizes: tuple[int, ...], width: int, dtype: Any, *, exact: bool = False
    ) -> None:
        self._comm, self._sizes, self._width = comm, sizes, width
        self._columns = width + (exact and width > 0)
        starts = starts_of(sizes)
        self._own = slice(starts[comm.rank], starts[comm.rank + 1])
        summed = np.dtype(np.int64) if exact else dtype
        self.partial = np.empty((sum(sizes), self._columns), summed)
        self._received = np.empty((comm.size, sizes[comm.rank], self._columns), summed)
        self._gathered = np.empty((sum(sizes), width), dtype)
        self._request: Request | None = None

    def post(self) -> None:
        """Send the partial sums of samples to the ranks that have them."""
        if not self._width:
            return
        sent = [size * self._columns for size in self._sizes]
        received = [self._received[0].size] * self._comm.size
        self._request = self._comm.alltoallv(
            self.partial.reshape(-1),
            sent,
            self._received.reshape(-1),
            received,
            name="reduce_scatter",
            include_self=False,
        )

    def totals(self) -> FloatArray:
        """Wait, and return the sums (n, W) of this rank's samples, added in the order of ranks."""
        self._wait()
        self._received[self._comm.rank] = self.partial[self._own]
        total: FloatArray = self._received.sum(axis=0)
        return total

    def post_gradient(self, packed: FloatArray) -> None:
        """Send ``packed`` (n, W) to all ranks."""
        if not self._width:
            return
        counts = [size * self._width for size in self._sizes]
        self._request = self._comm.allgatherv(
            packed.reshape(-1), self._gathered.reshape(-1), counts, name="allgather"
        )

    def gathered(self) -> FloatArray:
        """Wait, and return what all ranks sent, (N, W)."""
        self._wait()
        return self._gathered

    def _wait(self) -> None:
        if self._request is not None:
            self._request.wait()
            self._request = None


class Totals:
    """The total sums of this rank's samples, by key, and the gradients that are sent back.

    The key of an operator is the name of its node, or of its layer. ``exact`` sums are added in
    fixed point, so that they have the same bits for any ranks.
    """

    def __init__(
        self,
        found: Sequence[Operator],
        comm: Comm,
        sizes: tuple[int, ...],
        dtype: Any,
        *,
        exact: bool = False,
    ) -> None:
        self.exact, self._dtype, self.samples = exact, dtype, sum(sizes)
        self.operators = {operator.key: operator for operator in found}
        self.exchange = SumExchange(comm, sizes, width_of(found), dtype, exact=exact)
        self.columns = {operator.key: len(operator.columns) for operator in found}
        self._partners = {operator.partner for operator in found if operator.partner}
        self._totals: FloatArray | None = None
        self._packed = np.empty((sizes[comm.rank], width_of(found)), dtype)

    def clear(self) -> None:
        """Begin a batch."""
        self.exchange.partial[...] = 0
        self._totals = None

    def of_node(self, node: str) -> list[Operator]:
        """Return the operators of an embedding node, none if its vectors are exchanged."""
        return [operator for operator in self.operators.values() if operator.node == node]

    def add(self, key: str, sums: FloatArray) -> None:
        """Add sums (N, W), or exact ones (N, W + 1), of the vectors in one group of shards."""
        columns = _index(self.operators[key])
        if self.exact:
            self.exchange.partial[:, -1] += sums[:, -1]
            sums = sums[:, :-1]
        self.exchange.partial[:, columns] += sums

    def finish(self, key: str, local: FloatArray | None) -> FloatArray:
        """Return totals (n, W) with those of tables that every rank has, ``local``."""
        if self._totals is None:
            totals = self.exchange.totals()
            self._totals = from_exact(totals, self._dtype) if self.exact else totals
        operator = self.operators[key]
        total: FloatArray = np.array(self._totals[:, _index(operator)], order="C")
        if operator.partner:
            total[:, -1] = 0  # is among those of the partner
        if local is not None:
            total += local
        return total

    def packed(self, key: str, gradient: FloatArray, total: FloatArray) -> FloatArray:
        """Return what the ranks need of the gradient (n, W) of ``total`` sums."""
        operator, packed = self.operators[key], gradient.reshape(len(gradient), self.columns[key])
        if operator.kind not in ("sum", LAYER):
            sums = total[:, : operator.dim]
            packed = np.concatenate([sums, packed[:, operator.dim :]], axis=1)
        return packed

    def pack(self, key: str, packed: FloatArray, rows: slice) -> None:
        """Store what :meth:`packed` returns of some ``rows`` of this rank's samples, to be sent."""
        self._packed[rows, _index(self.operators[key])] = packed

    def post_gradient(self) -> None:
        """Send the gradients of all operators."""
        self.exchange.post_gradient(self._packed)

    def of_all(self, key: str) -> FloatArray:
        """Wait, and return an operator's part (N, W) of what all ranks sent."""
        gathered, columns = self.exchange.gathered(), _index(self.operators[key])
        found: FloatArray = np.array(gathered[:, columns], order="C")
        return found


def _index(operator: Operator) -> slice | list[int]:
    """Return the columns of an operator as an index, which a slice makes quickly."""
    columns = operator.columns
    if columns == tuple(range(columns[0], columns[0] + len(columns))):
        return slice(columns[0], columns[0] + len(columns))
    return list(columns)


def check_single_lookups(
    architecture: Architecture, plan: Plan, found: Mapping[str, Operator], batch: Batch
) -> None:
    """Raise DataError for a bag whose rows are on several ranks, where products need its vector."""
    if not found:
        return
    for t, spec in enumerate(architecture.table_specs):
        operator = found.get(spec.node)
        if operator is None or operator.kind == "sum" or plan.placements[t].kind != "rows":
            continue
        lengths = np.diff(batch.table(spec.column)[1])
        if len(lengths) and lengths.max() > 1:
            sample = int(lengths.argmax())
            raise DataError(
                f"sample {sample} looks up {lengths[sample]} rows of {spec.name}, which is split "
                "by rows, but the products of pairs need whole bags; give --plan=whole or "
                "--exchange=alltoall"
            )
