"""Sums of vectors for the compiled backend, and the products of their pairs: linear models, FM.

Where nothing else needs the vectors of a node, its lookup records no pooled vectors: the operation
that sums them gathers the rows, and their gradient is one vector per sample for all tables. On
many ranks each sums the vectors of its own tables, see :mod:`dlrmjit.ops.partial_sums`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from dlrmjit_kernels.embedding import forward as embedding_lookup
from dlrmjit_kernels.embedding import update as embedding_update
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.pair_sums import BoundSums
from dlrmjit_kernels.embedding.row_optimizers import RowRule, SgdRows
from dlrmjit_kernels.embedding.storage import TableStorage
from dlrmjit_kernels.embedding.update import RowState
from dlrmjit_kernels.layers.pair_vectors import pair_gradients, pair_products
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.runtime.buffers import aligned_empty
from numpy.typing import NDArray

from dlrmjit.autograd.sparse_gradient import Rate, SparseGradient
from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.config.optimizer import OptimizerConfig
from dlrmjit.ops.array_rules import RULES as ARRAY_RULES
from dlrmjit.ops.jit.join import array_of, array_rule, rows_of, store, store_gradient
from dlrmjit.ops.jit.optimizers import BagGradient, merge_lookups
from dlrmjit.ops.partial_sums import RULE as PARTIAL_SUMS
from dlrmjit.ops.partial_sums import TOTALS

Gradients = Iterator[tuple[int, Any]]
F32 = NDArray[np.float32]
(_SUM,) = (rule for rule in ARRAY_RULES if rule.name == "sum")


@dataclass(frozen=True)
class LookedUp:
    """The vectors (N, S, E) that lookups find, of which only sums are wanted."""

    tables: TableStorage
    lookups: Lookups

    def gradient(self, shared: SharedGradient | PairGradient) -> SparseGradient:
        """Return the gradient of the tables from that of the vectors."""
        if isinstance(shared, SharedGradient):
            return SharedBagGradient(self.lookups, shared.vectors, each=shared.each)
        pairs = PairBagGradient(self.lookups, shared.sums, shared.upstream, self.tables)
        return pairs if shared.longest <= 1 else pairs.whole()


@dataclass(frozen=True)
class SharedGradient:
    """A gradient (N, E) that all vectors of a sample have, and the same for each (N, S, E)."""

    each: F32
    vectors: F32

    @classmethod
    def of(cls, step: Step, number: int, x: LookedUp, gradient: F32) -> SharedGradient:
        """Return a copy of ``gradient``, which others share, in a buffer of input ``number``."""

        def make() -> SharedGradient:
            each = aligned_empty(gradient.shape)
            shape = (len(each), len(x.tables), x.tables.dim)
            return cls(each, np.broadcast_to(each[:, None], shape))

        shared = step.cached_for(f"shared {number}", (x.tables,), make)
        shared.each[...] = gradient
        return shared


@dataclass(frozen=True)
class PairGradient:
    """``upstream[n] * (sums[n] - v)`` for every vector v of sample n; the longest bag."""

    sums: F32
    upstream: F32
    longest: int


@dataclass
class SharedBagGradient(BagGradient):
    """A gradient of bags whose dY repeats ``each`` (N, E) for every table, without a copy."""

    each: F32 = field(kw_only=True)

    def scale(self, factor: float) -> None:
        """Scale once what all tables share."""
        np.multiply(self.each, np.float32(factor), out=self.each)


@dataclass(frozen=True)
class PairBagGradient(SparseGradient):
    """The gradient of the products of all pairs of vectors, each of one row of ``tables`` or none.

    That of one lookup is ``upstream[n] * (sums[n] - row)``. What needs the gradients of all vectors
    makes them by another lookup, before the tables change.
    """

    lookups: Lookups
    sums: F32
    upstream: F32
    tables: TableStorage

    def descend(self, tables: TableStorage, rate: float) -> None:
        """Plain SGD on the looked-up rows."""
        self._apply(tables, SgdRows(rate), None)

    def update(
        self, tables: TableStorage, state: RowState, config: OptimizerConfig, rate: Rate
    ) -> None:
        """Apply an optimizer to the looked-up rows."""
        self._apply(tables, RowRule(config, rate), state)

    def _apply(self, tables: TableStorage, rule: RowRule, state: RowState | None) -> None:
        embedding_update.apply_pairs(tables, self.lookups, self.sums, self.upstream, rule, state)

    @property
    def dY(self) -> F32:  # noqa: N802 - as of the gradients of bags
        """The gradients (N, S, E) of the vectors, of bags of any length."""
        dY = np.empty((len(self.sums), len(self.tables), self.tables.dim), np.float32)
        embedding_lookup.pool(self.tables, self.lookups, dY, "sum")
        np.subtract(self.sums[:, None], dY, out=dY)
        dY *= self.upstream[:, None, None]
        return dY

    def whole(self) -> BagGradient:
        """Return the same gradient with those of all vectors."""
        return BagGradient(self.lookups, self.dY)

    def sum_of_squares(self, tables: TableStorage, scratch: dict[str, Any]) -> float:
        """Return the sum of squares of the rows' gradients."""
        return self.whole().sum_of_squares(tables, scratch)

    def mean_squares(self, tables: TableStorage, means: TableStorage, weight_decay: float) -> None:
        """Write one value per looked-up row."""
        self.whole().mean_squares(tables, means, weight_decay)

    def scale(self, factor: float) -> None:
        """Scale in place."""
        np.multiply(self.upstream, np.float32(factor), out=self.upstream)

    def merged(self, *others: Any) -> Any:
        """Return a copy of this gradient and those of other batches as that of one large batch.

        Others are of the same tables, but their bags may have any length.
        """
        pairs = [other for other in (self, *others) if isinstance(other, PairBagGradient)]
        if len(pairs) <= len(others):
            return self.whole().merged(*others)
        return PairBagGradient(
            merge_lookups([gradient.lookups for gradient in pairs]),
            np.concatenate([gradient.sums for gradient in pairs]),
            np.concatenate([gradient.upstream for gradient in pairs]),
            self.tables,
        )

    def to_dense(self, tables: TableStorage) -> list[Any]:
        """Return full arrays (M, E), one per table."""
        return self.whole().to_dense(tables)


def _buffer(step: Step, name: str, *shape: int) -> F32:
    return step.cached(name, lambda: aligned_empty(shape))


def _fm_forward(step: Step) -> Matrix:
    x = step.values[0]
    if not isinstance(x, LookedUp):
        return _products(step, x, 1)
    step.memory["longest"] = _gather(step, x, "sums", "gathered")
    return step.cached("column", lambda: Matrix.view(step.memory["gathered"][:, None]))


def _gather(step: Step, x: LookedUp, sums: str, pairs: str | None = None) -> int:
    """Sum the vectors into the buffer ``sums``; their products of pairs go to ``pairs``."""
    into = _buffer(step, sums, x.lookups.samples, x.tables.dim)
    products = _buffer(step, pairs, x.lookups.samples) if pairs else None
    bound = step.cached_for(
        (sums, *x.lookups.form), (x.tables,), lambda: BoundSums(x.tables, x.lookups, into, products)
    )
    return bound(x.lookups)


def _products(step: Step, x: F32, columns: int) -> Matrix:
    """Return the products of all pairs of vectors that are in memory, in 1 or E columns."""
    sums = _buffer(step, "sums", len(x), x.shape[2])
    pairs = _buffer(step, "pairs", len(x), columns)
    pair_products(x, sums, pairs)
    return step.cached("pairs matrix", lambda: Matrix.view(pairs))


def _gradients(step: Step, gradient: Any) -> Gradients:
    x, g = step.values[0], np.ascontiguousarray(rows_of(gradient))
    buffer = _buffer(step, "gradient", *x.shape)
    pair_gradients(x, step.memory["sums"], g, buffer)
    yield 0, buffer


def _fm_backward(step: Step, gradient: Any) -> Gradients:
    x = step.values[0]
    if not isinstance(x, LookedUp):
        yield from _gradients(step, gradient)
        return
    upstream = _buffer(step, "upstream", x.lookups.samples)  # it may be scaled, others share it
    upstream[...] = rows_of(gradient)[:, 0]
    yield 0, PairGradient(step.memory["sums"], upstream, step.memory["longest"])


def _bi_interaction_forward(step: Step) -> Matrix:
    x = step.values[0]
    return _products(step, x, x.shape[2])


def _sum_forward(step: Step) -> Matrix:
    arrays = [
        _sums(step, i, x) if isinstance(x, LookedUp) else array_of(step, i)
        for i, x in enumerate(step.values)
    ]
    result: Matrix = store(step, "result", _SUM.forward(*arrays))
    return result


def _sums(step: Step, number: int, x: LookedUp) -> F32:
    _gather(step, x, f"sums {number}")
    sums: F32 = step.memory[f"sums {number}"]
    return sums


def _sum_backward(step: Step, gradient: Any) -> Gradients:
    g = rows_of(gradient)
    for i, x in enumerate(step.values):
        if not step.wants(i):
            continue
        if isinstance(x, LookedUp):
            yield i, SharedGradient.of(step, i, x, g)
        else:
            (part,) = _SUM.backward(g, array_of(step, i))
            yield i, store_gradient(step, i, np.asarray(part, np.float32))


def _partial_sums_forward(step: Step) -> Any:
    x = step.values[0]
    if not isinstance(x, LookedUp):
        return PARTIAL_SUMS.forward(step)
    if step.options["kind"] == "sum":
        return _sums(step, 0, x)
    step.memory["longest"] = _gather(step, x, "sums", "gathered")
    sums, pairs = step.memory["sums"], step.memory["gathered"]
    squares = pairs - (sums * sums).sum(axis=1) / 2  # -1/2 of those of all vectors
    return np.concatenate([sums, squares[:, None]], axis=1)


def _partial_sums_backward(step: Step, packed: F32) -> Iterator[tuple[int, Any]]:
    x = step.values[0]
    if not isinstance(x, LookedUp):
        yield from PARTIAL_SUMS.backward(step, packed)
    elif step.options["kind"] == "sum":
        yield 0, SharedGradient.of(step, 0, x, packed)
    else:
        sums, upstream = np.array(packed[:, :-1], order="C"), np.array(packed[:, -1])
        yield 0, PairGradient(sums, upstream, step.memory["longest"])


RULES = (
    Rule("fm", _fm_forward, _fm_backward),
    Rule("bi_interaction", _bi_interaction_forward, _gradients),
    Rule("sum", _sum_forward, _sum_backward),
    Rule("partial_sums", _partial_sums_forward, _partial_sums_backward),
    *(array_rule(rule.forward, rule.backward, rule.name) for rule in TOTALS),
)
