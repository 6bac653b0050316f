"""Backward of the embedding bags fused with the optimiser step of the rows they touch.

No gradient of a lookup is ever written. Lookups are sorted into buckets of rows, threads take
bucket after bucket, and within a bucket every row is moved by its gradients in order of
occurrence: no atomics, no scan by every thread, the same bits for any number of threads.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import get_num_threads
from numpy.typing import NDArray

from dlrmjit_kernels.codegen.engine import address
from dlrmjit_kernels.embedding.forward import check_pooled, prefetch_distance
from dlrmjit_kernels.embedding.lookup_sort import BITS, Buckets, sort_lookups
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.row_groups import group_rows, table_size
from dlrmjit_kernels.embedding.row_optimizers import RowRule, SgdRows
from dlrmjit_kernels.errors import ConfigError
from dlrmjit_kernels.microkernels.row_scatter import ScatterSpec
from dlrmjit_kernels.microkernels.row_update import UpdateSpec
from dlrmjit_kernels.runtime import buffers
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import run_tasks
from dlrmjit_kernels.runtime.target import Target, current_target
from dlrmjit_kernels.runtime.tasks import take_task
from dlrmjit_kernels.runtime.unsafe import call

if TYPE_CHECKING:
    from dlrmjit_kernels.embedding.tables import EmbeddingTables

_NO_WEIGHTS = np.empty(0, np.float32)


@dataclass
class RowState:
    """What a rule remembers: tables shaped like the model's, or of one column; steps taken."""

    tables: tuple[EmbeddingTables, ...]
    steps: int = 0


def apply(
    tables: EmbeddingTables,
    lookups: Lookups,
    dY: NDArray[np.float32],
    rule: RowRule,
    state: RowState | None,
    pooling: str,
    weights: NDArray[np.float32] | None,
) -> None:
    """Move every row that ``lookups`` touch by ``rule``, given ``dY`` (N, S, E).

    Of lookups with numbers, table ``s`` has its gradient in ``dY[:, numbers[s], :E]``.
    The layout of the lookups must have been checked; their indices are checked here.

    Raises
    ------
    ConfigError
        If the rule has memory and ``state`` is not the one made for it.
    IndexRangeError
        For the first lookup outside its table, if that is what the tables do with it; then
        no row has moved.
    """
    check_pooled(tables, lookups, dY, pooling, weights)
    state = _state_for(rule, state)
    mean, scales = pooling == "mean", _NO_WEIGHTS if weights is None else weights
    buckets = sort_lookups(lookups, tables.row_counts, tables.workspace, scales, mean)
    if buckets is None:
        lookups, weights = lookups.admit(tables.row_counts, tables.bounds, weights)
        apply(tables, lookups, dY, rule, state, pooling, weights)
        return
    state.steps += 1
    if isinstance(rule, SgdRows) and rule.l2 == 0.0:
        _scatter_rows(tables, lookups, buckets, dY, rule)
    else:
        _update_rows(tables, lookups, buckets, dY, rule, state)


def _state_for(rule: RowRule, state: RowState | None) -> RowState:
    needed = len(rule.element_states) + len(rule.row_states)
    if state is None and needed == 0:
        return RowState(())
    if state is None or len(state.tables) != needed:
        raise ConfigError(f"{type(rule).__name__} needs the state that new_state(rule) makes")
    return state


def _scatter_rows(
    tables: EmbeddingTables,
    lookups: Lookups,
    buckets: Buckets,
    dY: NDArray[np.float32],
    rule: RowRule,
) -> None:
    """Plain SGD: rows move lookup by lookup, which needs no grouping."""
    workspace, scaled = tables.workspace, buckets.scaled
    kernel = _scatter(current_target(), tables.dim, scaled, tables.split)
    factor = workspace.get("scalars", 16, np.float32)
    factor[0] = -rule.lr
    counter = workspace.get("counter", 2, np.int64)
    _scatter_kernel(
        kernel,
        buckets.entries,
        buckets.scales,
        buckets.begin[: buckets.count + 1],
        buckets.order,
        buckets.tables,
        tables.addresses,
        tables.lower_addresses,
        tables.row_bytes,
        dY.ctypes.data,
        dY.strides[0],
        lookups.places(dY),
        factor,
        prefetch_distance(4 * tables.dim),
        get_num_threads(),
        counter,
    )


@functools.lru_cache(maxsize=256)
def _scatter(target: Target, dim: int, scaled: bool, split: bool) -> int:
    return address(ScatterSpec(dim, scaled, split), target)


@jit
def _scatter_kernel(
    kernel: int,
    entries: NDArray[np.uint64],
    scales: NDArray[np.float32],
    begin: NDArray[np.int64],
    order: NDArray[np.int32],
    bucket_tables: NDArray[np.int32],
    addresses: NDArray[np.int64],
    lower: NDArray[np.int64],
    row_bytes: int,
    gradient: int,
    stride: int,
    places: NDArray[np.int64],
    factor: NDArray[np.float32],
    ahead: int,
    threads: int,
    counter: NDArray[np.int64],
) -> None:
    """Threads take buckets until none is left; one micro-kernel call per bucket."""
    counter[0] = 0
    buckets, rows = (begin, order, bucket_tables), (addresses, lower, row_bytes)
    common = (entries.ctypes.data, factor.ctypes.data, scales.ctypes.data, ahead)
    operands = (kernel, buckets, rows, (gradient, stride, places), common, counter)
    run_tasks(_scatter_buckets, threads, operands, False)


@task_jit
def _scatter_buckets(
    thread: int,
    kernel: int,
    buckets: Any,
    rows: Any,
    gradients: Any,
    common: tuple[int, int, int, int],
    counter: NDArray[np.int64],
) -> None:
    begin, order, bucket_tables = buckets
    addresses, lower, row_bytes = rows
    gradient, stride, places = gradients
    entries, factor, scales, ahead = common
    while True:
        task = take_task(counter.ctypes.data)
        if task >= len(begin) - 1:
            break
        b = np.int64(order[task])
        if begin[b + 1] > begin[b]:
            s = np.int64(bucket_tables[b])
            part = (entries, begin[b], begin[b + 1])
            row = (addresses[s], lower[s], row_bytes)
            call(kernel, (*part, *row, gradient + places[s], stride, factor, scales, ahead))


class _Place(NamedTuple):
    """Where rows, states and gradients lie: addresses of every table, strides in bytes.

    ``arrays`` (4, S) and ``row_bytes`` (4,) are those of the tables, their lower halves and two
    states; of what there is not, a row has no bytes.
    """

    rows: NDArray[np.int64]
    arrays: NDArray[np.int64]
    row_bytes: NDArray[np.int64]
    gradient: int
    bag_stride: int
    gradients: NDArray[np.int64]


class _Scratch(NamedTuple):
    """Working memory of each thread."""

    groups: NDArray[np.int32]  # (T, ...): slots, heads, links
    gradients: NDArray[np.float32]  # (T, ...): the summed gradient of a row


def _update_rows(
    tables: EmbeddingTables,
    lookups: Lookups,
    buckets: Buckets,
    dY: NDArray[np.float32],
    rule: RowRule,
    state: RowState,
) -> None:
    """Any rule: the gradient of a row is summed before the row moves."""
    workspace = tables.workspace
    scalars = workspace.get("scalars", 16, np.float32)
    values = (rule.l2, *rule.scalars(state.steps))
    scalars[: len(values)] = values
    threads = get_num_threads()
    _update_kernel(
        address(update_spec(rule, tables, buckets.scaled), current_target()),
        buckets.entries,
        buckets.scales if buckets.scaled else buckets.scales[:0],
        buckets.begin[: buckets.count + 1],
        buckets.order,
        buckets.tables,
        buckets.plan,
        _placed(tables, lookups, dY, state),
        _scratch(tables, buckets, threads),
        scalars,
        prefetch_distance(4 * tables.dim),
        threads,
        workspace.get("counter", 2, np.int64),
    )


def _placed(
    tables: EmbeddingTables, lookups: Lookups, dY: NDArray[np.float32], state: RowState
) -> _Place:
    arrays = [(tables.addresses, tables.row_bytes)]
    arrays.append((tables.lower_addresses, tables.row_bytes if tables.split else 0))
    arrays += [(kept.addresses, kept.row_bytes) for kept in state.tables]
    arrays += [(tables.addresses, 0)] * (4 - len(arrays))
    addresses, row_bytes = zip(*arrays, strict=True)
    return _Place(
        tables.row_counts,
        np.array(addresses, np.int64),
        np.array(row_bytes, np.int64),
        dY.ctypes.data,
        dY.strides[0],
        lookups.places(dY),
    )


def _scratch(tables: EmbeddingTables, buckets: Buckets, threads: int) -> _Scratch:
    workspace = tables.workspace
    used = buckets.tables[: buckets.count]
    space = _group_space(tables.row_counts, buckets.begin, buckets.plan, used)
    per_thread = buffers.round_up(space, 64)
    width = buffers.round_up(tables.dim, 64)
    groups = workspace.get("groups", threads * per_thread, np.int32)
    gradients = workspace.get("gradients", threads * width, np.float32)
    return _Scratch(
        groups[: threads * per_thread].reshape(threads, per_thread),
        gradients[: threads * width].reshape(threads, width),
    )


@jit
def _group_space(
    rows: NDArray[np.int64],
    begin: NDArray[np.int64],
    plan: NDArray[np.int64],
    bucket_tables: NDArray[np.int32],
) -> int:
    """Most int32 that grouping any of the buckets takes."""
    most = 0
    for b in range(len(bucket_tables)):
        s = bucket_tables[b]
        lookups, keys = begin[b + 1] - begin[b], (rows[s] >> plan[s, BITS]) + 1
        most = max(most, table_size(lookups, keys) + 2 * lookups + 2)
    return most


@jit
def _update_kernel(
    kernel: int,
    entries: NDArray[np.uint64],
    scales: NDArray[np.float32],
    begin: NDArray[np.int64],
    order: NDArray[np.int32],
    bucket_tables: NDArray[np.int32],
    plan: NDArray[np.int64],
    place: _Place,
    scratch: _Scratch,
    scalars: NDArray[np.float32],
    ahead: int,
    threads: int,
    counter: NDArray[np.int64],
) -> None:
    """Threads take buckets until none is left."""
    counter[0] = 0
    buckets = (entries, scales, begin, order, bucket_tables, plan)
    operands = (kernel, buckets, place, scratch, scalars.ctypes.data, ahead, counter)
    run_tasks(_update_buckets, threads, operands, False)


@task_jit
def _update_buckets(
    thread: int,
    kernel: int,
    buckets: Any,
    place: _Place,
    scratch: _Scratch,
    scalars: int,
    ahead: int,
    counter: NDArray[np.int64],
) -> None:
    entries, scales, begin, order, bucket_tables, plan = buckets
    common = (scalars, scratch.gradients[thread].ctypes.data, ahead)
    while True:
        task = take_task(counter.ctypes.data)
        if task >= len(begin) - 1:
            break
        b = np.int64(order[task])
        first, last = begin[b], begin[b + 1]
        s = np.int64(bucket_tables[b])
        part = scales[first:last] if len(scales) else scales
        groups = scratch.groups[thread]
        _move_bucket(kernel, entries[first:last], part, s, plan[s, BITS], place, groups, common)


@jit
def _move_bucket(
    kernel: int,
    entries: NDArray[np.uint64],
    scales: NDArray[np.float32],
    s: int,
    shift: int,
    place: _Place,
    groups: NDArray[np.int32],
    common: tuple[int, int, int],
) -> None:
    """Group the rows of one bucket of table ``s``, then move each once."""
    keys = (place.rows[s] >> shift) + 1
    slots = groups[: table_size(len(entries), keys)]
    links = groups[len(slots) : len(slots) + len(entries) + 1]
    heads = groups[len(slots) + len(links) :]
    arrays, row_bytes = place.arrays[:, s], place.row_bytes
    unique = group_rows(entries, shift, keys, slots, heads, links)
    call(
        kernel,
        (
            entries.ctypes.data - 8,  # entries are numbered from 1
            heads.ctypes.data,
            links.ctypes.data,
            scales.ctypes.data - 4,
            0,
            unique,
            arrays[0],
            arrays[1],
            row_bytes[0],
            arrays[2],
            arrays[3],
            row_bytes[2],
            place.gradient + place.gradients[s],
            place.bag_stride,
            common[0],
            common[1],
            common[2],
        ),
    )


def update_spec(rule: RowRule, tables: EmbeddingTables, scaled: bool) -> UpdateSpec:
    """Specification of the micro-kernel that applies a rule to such tables."""
    return UpdateSpec(
        rule.name,
        tables.dim,
        len(rule.scalars(1)),
        len(rule.element_states),
        rule.element,
        len(rule.row_states),
        rule.row if rule.row_states else None,
        scaled,
        tables.split,
    )


def new_state(tables: EmbeddingTables, rule: RowRule) -> RowState:
    """Fresh state of ``rule`` for ``tables``."""
    kept = [tables.beside(tables.dim) for _ in rule.element_states]
    kept += [tables.beside(1) for _ in rule.row_states]
    for table in kept:
        table.fill(rule.initial_state)
    return RowState(tuple(kept))
