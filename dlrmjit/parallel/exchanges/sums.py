"""Exchange sums of vectors instead of vectors, for nodes that need nothing but the sums.

Every rank adds up the vectors of its shards for all N samples; the sums are added where the samples
are, and the total sums with the gradient of the node's result are sent to all ranks, of which each
makes the gradients of its rows (Rong et al., arXiv 1909.04823). What travels does not depend on
the number of tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.data.batch import Batch
from dlrmjit.data.batch_shard import starts_of
from dlrmjit.errors import ConfigError, DataError
from dlrmjit.ops.backend import FloatArray
from dlrmjit.ops.partial_sums import KINDS, columns_of, from_exact
from dlrmjit.parallel.comm import Comm, Request
from dlrmjit.parallel.plan import Plan


@dataclass(frozen=True)
class Operator:
    """An embedding node of which sums are exchanged, and their columns among those of all nodes.

    ``kind`` is that of the node that sums the vectors. The one column of ``fm`` after its sums may
    be that of a node ``partner``: both are terms of the same sum, and so are their parts.
    """

    node: str
    kind: str
    dim: int
    columns: tuple[int, ...]
    partner: str = ""


def operators(architecture: Architecture, names: Sequence[str]) -> tuple[Operator, ...]:
    """Return the operators of the embedding nodes called ``names``."""
    found: list[Operator] = []
    width = 0
    for node in architecture.embeddings:
        if node.name not in names:
            continue
        kind = _kind(architecture, node)
        partner = _partner(architecture, node, found) if kind == "fm" else None
        own = columns_of(kind, node.dim) - (partner is not None)
        columns = tuple(range(width, width + own)) + (partner.columns if partner else ())
        width += own
        name = partner.node if partner else ""
        found.append(Operator(node.name, kind, node.dim, columns, name))
    return tuple(found)


def width_of(found: Sequence[Operator]) -> int:
    """Return the number of columns of all operators."""
    return 1 + max((column for operator in found for column in operator.columns), default=-1)


def substitutable(architecture: Architecture, plan: Plan) -> tuple[str, ...]:
    """Return the embedding nodes of which a plan allows sums to be exchanged.

    Their tables have one width and no learned weights, and each is whole or split by rows.
    """
    specs = enumerate(architecture.table_specs)
    split = {spec.node for t, spec in specs if plan.placements[t].kind == "columns"}
    return tuple(
        node.name
        for node in architecture.embeddings
        if _kind(architecture, node) in KINDS and node.name not in split
    )


def require_substitutable(architecture: Architecture, plan: Plan) -> None:
    """Raise ConfigError naming a node of which the plan exchanges sums, but cannot."""
    allowed = substitutable(architecture, plan)
    for name in plan.substituted:
        if name not in allowed:
            raise ConfigError(
                f"the plan exchanges sums of {name!r}, but this needs an embedding node of tables "
                "of one width, whole or split by rows, of which one other node needs only sums; "
                f"here these are: {', '.join(allowed) or 'none'}"
            )


def _kind(architecture: Architecture, node: Embedding) -> str:
    consumer = architecture.only_consumer(node.name)
    if consumer is None or node.projections or node.is_combined or node.learned:
        return ""
    return consumer.kind


def _partner(
    architecture: Architecture, node: Embedding, found: Sequence[Operator]
) -> Operator | None:
    """Return an operator whose one column is added to the same sum as the result of ``node``'s."""
    pairs = architecture.only_consumer(node.name)
    total = architecture.only_consumer(pairs.name) if pairs else None
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
    """The total sums of this rank's samples, by node, and the gradients that are sent back.

    ``exact`` sums are added in fixed point, so that they have the same bits for any ranks.
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
        self.exact, self._dtype = exact, dtype
        self.operators = {operator.node: operator for operator in found}
        self.exchange = SumExchange(comm, sizes, width_of(found), dtype, exact=exact)
        self.columns = {operator.node: len(operator.columns) for operator in found}
        self._partners = {operator.partner for operator in found if operator.partner}
        self._totals: FloatArray | None = None
        self._packed = np.empty((sizes[comm.rank], width_of(found)), dtype)

    def clear(self) -> None:
        """Begin a batch."""
        self.exchange.partial[...] = 0
        self._totals = None

    def add(self, node: str, sums: FloatArray) -> None:
        """Add sums (N, W), or exact ones (N, W + 1), of a node's vectors in one group of shards."""
        columns = list(self.operators[node].columns)
        if self.exact:
            self.exchange.partial[:, -1] += sums[:, -1]
            sums = sums[:, :-1]
        self.exchange.partial[:, columns] += sums

    def finish(self, node: str, local: FloatArray | None) -> FloatArray:
        """Return a node's totals (n, W) with those of tables that every rank has, ``local``."""
        if self._totals is None:
            totals = self.exchange.totals()
            self._totals = from_exact(totals, self._dtype) if self.exact else totals
        operator = self.operators[node]
        total: FloatArray = np.take(self._totals, operator.columns, axis=1)
        if operator.partner:
            total[:, -1] = 0  # is among those of the partner
        if local is not None:
            total += local
        return total

    def packed(self, node: str, gradient: FloatArray, total: FloatArray) -> FloatArray:
        """Return what the ranks need of the gradient (n, W) of a node's ``total`` sums."""
        operator, packed = self.operators[node], gradient.reshape(len(gradient), self.columns[node])
        if operator.kind != "sum":
            sums = total[:, : operator.dim]
            packed = np.concatenate([sums, packed[:, operator.dim :]], axis=1)
        return packed

    def pack(self, node: str, packed: FloatArray, rows: slice) -> None:
        """Store what :meth:`packed` returns of some ``rows`` of this rank's samples, to be sent."""
        self._packed[rows, list(self.operators[node].columns)] = packed

    def post_gradient(self) -> None:
        """Send the gradients of all nodes."""
        self.exchange.post_gradient(self._packed)

    def of_all(self, node: str) -> FloatArray:
        """Wait, and return a node's part (N, W) of what all ranks sent."""
        found: FloatArray = np.take(self.exchange.gathered(), self.operators[node].columns, axis=1)
        return found


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
