"""Backward of the embedding bags fused with the optimizer step of the rows they touch.

The gradient of a single lookup is never written. Lookups are sorted into buckets of rows, threads
take bucket after bucket, and within a bucket every row is updated by its gradients in order of
occurrence: no atomics, no scan by every thread, the same bits for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.calls.calls import bind
from dlrmjit_kernels.calls.entries import store_call
from dlrmjit_kernels.codegen.engine import Spec, address
from dlrmjit_kernels.embedding.forward import check_pooled, check_weights, prefetch_distance
from dlrmjit_kernels.embedding.lookup_sort import BITS, Buckets, buckets_of
from dlrmjit_kernels.embedding.lookups import Lookups, PooledVectors
from dlrmjit_kernels.embedding.pair_sums import shared_gradient
from dlrmjit_kernels.embedding.row_groups import group_rows, group_space, table_size
from dlrmjit_kernels.embedding.row_optimizers import (
    Rate,
    RowRule,
    Scalars,
    check_states,
    update_spec,
)
from dlrmjit_kernels.embedding.storage import TableAddresses, TableStorage
from dlrmjit_kernels.microkernels.row_scatter import ScatterSpec
from dlrmjit_kernels.optimizers import OptimizerConfig
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import round_up
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks, threads_set
from dlrmjit_kernels.runtime.target import current_target
from dlrmjit_kernels.runtime.threads import get_threads
from dlrmjit_kernels.runtime.unsafe import call, next_task

_PARALLEL_MIN_ELEMENTS = 4096  # of all rows, from which waking other threads pays
Float32 = NDArray[np.float32]


@dataclass
class RowState:
    """Optimizer state of a rule: tables of the model's shape, or of one column; steps taken.

    It also has the last update that was bound to it, which copies do without.
    """

    tables: tuple[TableStorage, ...]
    steps: int = 0
    bound: BoundUpdate | None = field(default=None, init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"tables": self.tables, "steps": self.steps}


def new_state(tables: TableStorage, rule: RowRule) -> RowState:
    """Return the initial state of ``rule`` for ``tables``."""
    states = [tables.like(tables.dim) for _ in rule.element_states]
    states += [tables.like(1) for _ in rule.row_states]
    for state in states:
        state.fill(rule.optimizer.initial_state)
    return RowState(tuple(states))


def apply(
    tables: TableStorage,
    lookups: Lookups,
    dY: Float32,
    rule: RowRule,
    state: RowState | None,
    pooling: str,
) -> None:
    """Update every row that ``lookups`` touch by ``rule``, given ``dY`` (N, S, E).

    If the rule has a rate for each table, one whose rate is 0 does not change, nor do its states.
    If the lookups have ``table_ids``, the gradient of table ``s`` is ``dY[:, table_ids[s], :E]``.
    The layout of the lookups must have been checked; their indices are checked here.

    Raises
    ------
    ConfigError
        If the rule has states and ``state`` is not the one made for it, or rates of other tables.
    IndexRangeError
        For the first lookup outside its table, if the tables' bounds say ``raise``; then no row
        was updated.
    """
    _apply(tables, lookups, dY, rule, state, pooling, None)


def apply_pairs(
    tables: TableStorage,
    lookups: Lookups,
    sums: Float32,
    upstream: Float32,
    rule: RowRule,
    state: RowState | None,
) -> None:
    """Update every looked-up row by the gradient of the products of all pairs of vectors.

    That of lookup i of sample n is ``upstream[n] * (sums[n] - row)``: ``sums`` (N, E), of the
    sample's vectors, serve all tables. Every bag must have one lookup at most; what was looked up
    is the rows before the update. Raises as :func:`apply`.
    """
    _apply(tables, lookups, sums, rule, state, "sum", upstream)


def _apply(
    tables: TableStorage,
    lookups: Lookups,
    dY: Float32,
    rule: RowRule,
    state: RowState | None,
    pooling: str,
    upstream: Float32 | None,
) -> None:
    """Run the update that the state has, or bind another."""
    bound, optimizer = state.bound if state else None, rule.optimizer
    if bound is None or not bound.fits(tables, lookups, dY, optimizer, pooling, upstream):
        bound = BoundUpdate(tables, lookups, dY, optimizer, state, pooling, upstream)
        if state is not None:
            state.bound = bound
    bound(lookups, rule.lr)


class BoundUpdate:
    """:func:`apply` for lookups of one form and one gradient, checked once.

    A call looks nothing up. ``dY`` must stay where it is, its contents may change. With
    ``upstream`` the gradient is that of pairs, as in :func:`apply_pairs`, and ``dY`` the sums.
    """

    def __init__(
        self,
        tables: TableStorage,
        like: Lookups,
        dY: Float32,
        optimizer: OptimizerConfig,
        state: RowState | None,
        pooling: str,
        upstream: Float32 | None = None,
    ) -> None:
        self._dY, self._upstream = dY, upstream
        if upstream is not None:
            dY = shared_gradient(tables, like, dY, upstream)
        check_pooled(tables, like, dY, pooling)
        rule = RowRule(optimizer, 0.0)
        check_states(tables, rule, state.tables if state else ())
        self._state = state or RowState(())
        self._tables, self._optimizer, self._mean = tables, optimizer, pooling == "mean"
        self._stored, self._form = self._state.tables, (pooling, *like.form)
        if not like.tables:
            return
        self._scatters = optimizer.is_additive and upstream is None
        scaled, pairs = self._mean or like.weights is not None, upstream is not None
        spec: Spec = update_spec(rule, tables, scaled, pairs)
        if self._scatters:
            spec = ScatterSpec(tables.dim, scaled, tables.split)
        self._kernel = address(spec, current_target())
        self._gradients = like.pooled_vectors(dY)
        self._ahead = prefetch_distance(4 * tables.dim)
        self._factors = int(upstream.ctypes.data) if upstream is not None else 0
        self._buckets: Buckets | None = None  # those that the scatter is bound to
        self._scalars = Scalars(optimizer, self._scatters, like.tables)

    def fits(
        self,
        tables: TableStorage,
        lookups: Lookups,
        dY: Float32,
        optimizer: OptimizerConfig,
        pooling: str,
        upstream: Float32 | None = None,
    ) -> bool:
        """Return whether this is the update of these operands by the same state."""
        return (
            self._dY is dY
            and self._upstream is upstream
            and self._tables is tables
            and self._optimizer is optimizer
            and self._stored is self._state.tables
            and self._form == (pooling, *lookups.form)
        )

    def __call__(self, lookups: Lookups, rate: Rate) -> None:
        """Update the rows of lookups of the same form with learning rate ``rate``."""
        check_weights(lookups)
        if not lookups.tables:
            self._state.steps += 1
            return
        with self._tables.access.writing():
            self._scalars.set(rate, self._state.steps + 1)
            buckets = self._sorted(lookups)
            self._state.steps += 1
            if self._scatters:
                self._scatter_rows(buckets)
            else:
                is_small = len(lookups.indices) * self._tables.dim < _PARALLEL_MIN_ELEMENTS
                self._update_rows(buckets, 1 if is_small else get_threads())

    def _sorted(self, lookups: Lookups) -> Buckets:
        tables = self._tables
        buckets = buckets_of(lookups, tables.row_counts, tables.workspace, self._mean)
        if buckets is None:
            return self._sorted(lookups.apply_bounds(tables.row_counts, tables.bounds))
        return buckets

    def _scatter_rows(self, buckets: Buckets) -> None:
        """Plain SGD: add to rows lookup by lookup, which needs no grouping."""
        if buckets is not self._buckets:
            tables, self._buckets = self._tables, buckets
            self._scatter = bind(
                _store_scatter,
                tuple(buckets),
                self._kernel,
                tables.for_kernels,
                self._gradients,
                self._scalars.addresses,
                (tables.dim, self._ahead),
                tables.workspace.get("counter", 2, np.int64),
            )
        self._scatter()

    def _update_rows(self, buckets: Buckets, threads: int) -> None:
        """Any rule: sum the gradient of a row before updating it."""
        tables = self._tables
        _update_kernel(
            (self._kernel, self._scalars.addresses, self._ahead, self._factors),
            tuple(buckets),
            tables.for_kernels,
            _state_addresses(tables, self._state),
            self._gradients,
            _scratch(tables, buckets, threads),
            threads,
            tables.workspace.get("counter", 2, np.int64),
        )


@jit
def _scatter_kernel(
    buckets: tuple[Any, ...],
    kernel: int,
    tables: tuple[Any, ...],
    gradients: tuple[Any, ...],
    factors: NDArray[np.int64],
    rows: tuple[int, int],
    counter: NDArray[np.int64],
) -> None:
    """Let threads take buckets until none is left; one micro-kernel call per bucket.

    ``rows`` are the columns of a row, and how many rows to prefetch ahead.
    """
    counter[0] = 0
    named = Buckets(*buckets), TableAddresses(*tables), PooledVectors(*gradients)
    dim, ahead = rows
    threads = 1 if named[0].begin[-1] * dim < _PARALLEL_MIN_ELEMENTS else threads_set()
    operands = (kernel, *named, factors, ahead, counter)
    run_tasks(_scatter_buckets, threads, operands, ALL_THREADS)


@jit
def _store_scatter(frame: int, operands: Any) -> int:
    address: int = store_call(_scatter_kernel, frame, operands)
    return address


@task_jit
def _scatter_buckets(
    thread: int,
    kernel: int,
    buckets: Buckets,
    tables: TableAddresses,
    gradients: PooledVectors,
    factors: NDArray[np.int64],
    ahead: int,
    counter: NDArray[np.int64],
) -> None:
    begin = buckets.begin
    while True:
        task = next_task(counter.ctypes.data)
        if task >= len(begin) - 1:
            break
        b = np.int64(buckets.order[task])
        s = np.int64(buckets.tables[b])
        if begin[b + 1] > begin[b] and factors[s] != 0:
            call(
                kernel,
                (
                    buckets.entries.ctypes.data,
                    begin[b],
                    begin[b + 1],
                    tables.table[s],
                    tables.low[s],
                    tables.row_bytes,
                    gradients.address + gradients.offsets[s],
                    gradients.stride,
                    factors[s],
                    buckets.scales.ctypes.data,
                    ahead,
                ),
            )


class _StateAddresses(NamedTuple):
    """Up to two states of a rule as compiled loops see them; kernels ignore absent ones.

    ``first`` and ``second`` (S,) are each table's addresses of the states, whose rows are
    ``row_bytes`` apart.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    row_bytes: int


class _Scratch(NamedTuple):
    """Working memory of each thread."""

    groups: NDArray[np.int32]  # (T, ...): slots, links, heads
    gradients: Float32  # (T, ...): the summed gradient of a row


class _RuleOperands(NamedTuple):
    """Operands of the micro-kernel that are the same for all buckets."""

    kernel: int
    scalars: NDArray[np.int64]  # (S,), 0 for a table that does not change
    ahead: int
    factors: int  # address, of pairs


def _state_addresses(tables: TableStorage, state: RowState) -> tuple[Any, ...]:
    """Return the fields of ``_StateAddresses``."""
    if not state.tables:
        return (tables.addresses, tables.addresses, 0)
    first, last = state.tables[0], state.tables[-1]
    return (first.addresses, last.addresses, first.row_bytes)


def _scratch(tables: TableStorage, buckets: Buckets, threads: int) -> tuple[Any, ...]:
    """Return the fields of ``_Scratch``."""
    workspace = tables.workspace
    space = group_space(tables.row_counts, buckets.begin, buckets.plan, buckets.tables)
    per_thread = round_up(space, 64)
    width = round_up(tables.dim, 64)
    groups = workspace.get("groups", threads * per_thread, np.int32)
    gradients = workspace.get("gradients", threads * width, np.float32)
    return (
        groups[: threads * per_thread].reshape(threads, per_thread),
        gradients[: threads * width].reshape(threads, width),
    )


@jit
def _update_kernel(
    rule: tuple[int, NDArray[np.int64], int, int],
    buckets: tuple[Any, ...],
    tables: tuple[Any, ...],
    states: tuple[Any, ...],
    gradients: tuple[Any, ...],
    scratch: tuple[Any, ...],
    threads: int,
    counter: NDArray[np.int64],
) -> None:
    """Let threads take buckets until none is left."""
    counter[0] = 0
    operands = (
        _RuleOperands(*rule),
        Buckets(*buckets),
        TableAddresses(*tables),
        _StateAddresses(*states),
        PooledVectors(*gradients),
        _Scratch(*scratch),
        counter,
    )
    run_tasks(_update_buckets, threads, operands, ALL_THREADS)


@task_jit
def _update_buckets(
    thread: int,
    rule: _RuleOperands,
    buckets: Buckets,
    tables: TableAddresses,
    states: _StateAddresses,
    gradients: PooledVectors,
    scratch: _Scratch,
    counter: NDArray[np.int64],
) -> None:
    groups, summed = scratch.groups[thread], scratch.gradients[thread].ctypes.data
    while True:
        task = next_task(counter.ctypes.data)
        if task >= len(buckets.begin) - 1:
            break
        b = np.int64(buckets.order[task])
        if rule.scalars[buckets.tables[b]] == 0:
            continue
        _update_bucket(b, rule, buckets, tables, states, gradients, groups, summed)


@jit
def _update_bucket(
    b: int,
    rule: _RuleOperands,
    buckets: Buckets,
    tables: TableAddresses,
    states: _StateAddresses,
    gradients: PooledVectors,
    groups: NDArray[np.int32],
    summed: int,
) -> None:
    """Group the lookups of bucket ``b`` by row, then update each row once."""
    first, s = buckets.begin[b], np.int64(buckets.tables[b])
    entries, shift = buckets.entries[first : buckets.begin[b + 1]], buckets.plan[s, BITS]
    keys = (tables.rows[s] >> shift) + 1
    slots = groups[: table_size(len(entries), keys)]
    links = groups[len(slots) : len(slots) + len(entries) + 1]
    heads = groups[len(slots) + len(links) :]
    rows = tables.table[s], tables.row_bytes
    unique = group_rows(entries, shift, keys, slots, heads, links, *rows)
    call(
        rule.kernel,
        (
            entries.ctypes.data - 8,  # chains count entries from 1, so both pointers start
            heads.ctypes.data,
            links.ctypes.data,
            buckets.scales.ctypes.data + 4 * first - 4,  # one element before the bucket
            0,
            unique,
            tables.table[s],
            tables.low[s],
            tables.row_bytes,
            states.first[s],
            states.second[s],
            states.row_bytes,
            gradients.address + gradients.offsets[s],
            gradients.stride,
            rule.scalars[s],
            summed,
            rule.ahead,
            rule.factors,
        ),
    )
