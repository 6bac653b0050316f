"""Propose a plan from table sizes, lookups, ranks and memory, without allocating anything.

Small tables are replicated. The others are placed whole on the rank with the least load, largest
first. While some rank has much more than the mean load, or too little memory, the costliest table
is split in two: by columns as long as these fill a vector, then by rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dlrmjit.config.memory import FLOAT_BYTES
from dlrmjit.errors import ConfigError, MemoryLimitError, format_gib
from dlrmjit.parallel.plan import KINDS, Placement, Plan, one_width, widths_of

SMALL_TABLE = 2048
"""Tables of fewer rows are replicated: summing the gradient costs less than the exchange."""

MIN_SHARD_COLUMNS = 16  # columns: one vector, and one cache line
_MAX_IMBALANCE = 1.25  # largest load over the mean that is accepted


class _Tables(NamedTuple):
    """Rows and columns of each table, and lookups per bag of each."""

    rows: tuple[int, ...]
    dims: tuple[int, ...]
    lookups: tuple[int, ...]

    @property
    def costs(self) -> list[int]:
        """Load of each table: a cache line for every lookup, and its columns."""
        pairs = zip(self.lookups, self.dims, strict=True)
        return [lookups * (MIN_SHARD_COLUMNS + dim) for lookups, dim in pairs]


class _Candidate(NamedTuple):
    """A plan, its largest load over the mean, and whether every rank has the memory for it."""

    plan: Plan
    imbalance: float
    fits: bool


def propose(
    table_rows: Sequence[int],
    dim: int | Sequence[int],
    ranks: int,
    *,
    kind: str = "auto",
    lookups: Sequence[int] | None = None,
    memory: int | None = None,
    min_columns: int = MIN_SHARD_COLUMNS,
    replicates: bool = True,
) -> Plan:
    """Return a plan for tables of ``table_rows`` rows and ``dim`` columns, one width or one each.

    Parameters
    ----------
    kind : ``auto``, or one kind for all tables: ``whole``, ``columns``, ``rows``, ``replicated``
    lookups : lookups per bag of each table, 1 by default; with the widths the load that is balanced
    memory : bytes for tables on one rank, unlimited by default
    min_columns : minimum columns of a shard, ``dim`` for optimizers that need whole rows
    replicates : whether ``auto`` replicates small tables

    Raises
    ------
    ConfigError
        For an unknown kind.
    MemoryLimitError
        If the tables exceed the memory of all ranks, or with this kind that of one rank.
    """
    rows = tuple(table_rows)
    dims = widths_of(dim, len(rows))
    check_memory(rows, dims, ranks, memory)
    if kind == "auto":
        tables = _Tables(rows, dims, tuple(lookups or [1] * len(rows)))
        plan = _automatic(tables, ranks, memory, min_columns, SMALL_TABLE if replicates else 0)
    elif kind in KINDS:
        plan = Plan(
            rows, one_width(dims), ranks, tuple(_uniform(kind, t, ranks) for t in range(len(rows)))
        )
    else:
        raise ConfigError(f"unknown plan {kind!r}; known are auto, {', '.join(KINDS)}")
    _check_ranks(plan, memory)
    return plan


def check_memory(rows: Sequence[int], dims: Sequence[int], ranks: int, memory: int | None) -> None:
    """Raise MemoryLimitError if the tables exceed the memory of all ranks."""
    need = sum(m * d for m, d in zip(rows, dims, strict=True)) * FLOAT_BYTES
    if memory is None or need <= ranks * memory:
        return
    raise MemoryLimitError(
        f"the tables need {format_gib(need)}, but {ranks} rank{'s' * (ranks > 1)} with "
        f"{format_gib(memory)} each for tables hold {format_gib(ranks * memory)}; "
        f"use at least {-(-need // max(memory, 1))} such ranks"
    )


def _check_ranks(plan: Plan, memory: int | None) -> None:
    if memory is None:
        return
    for rank in range(plan.ranks):
        if plan.bytes_of(rank) > memory:
            raise MemoryLimitError(
                f"this plan puts {format_gib(plan.bytes_of(rank))} on rank {rank}, which has "
                f"{format_gib(memory)} for tables; use more ranks, or split tables by rows"
            )


def _uniform(kind: str, table: int, ranks: int) -> Placement:
    if kind == "replicated":
        return Placement("replicated")
    if kind == "whole":
        return Placement("whole", (table % ranks,))
    all_ranks = tuple((table + i) % ranks for i in range(ranks))
    return Placement("rows" if kind == "rows" else "columns", all_ranks)


def _automatic(
    tables: _Tables, ranks: int, memory: int | None, min_columns: int, small: int
) -> Plan:
    rows = tables.rows
    if ranks == 1:
        return Plan(rows, one_width(tables.dims), 1, (Placement("whole", (0,)),) * len(rows))
    shards = {t: 1 for t, m in enumerate(rows) if m >= small}
    while True:
        plan, imbalance, fits = _balance(tables, ranks, shards, memory, min_columns)
        splittable = [t for t, count in shards.items() if count < min(ranks, rows[t])]
        if (fits and imbalance <= _MAX_IMBALANCE) or not splittable:
            return plan
        # The cost of a shard is its load, or its memory while that is exceeded.
        cost = tables.costs if fits else rows
        costliest = max(splittable, key=lambda t: (cost[t] / shards[t], -t))
        shards[costliest] = min(ranks, 2 * shards[costliest])


def _balance(
    tables: _Tables, ranks: int, shards: dict[int, int], memory: int | None, min_columns: int
) -> _Candidate:
    """Assign each of ``shards[t]`` shards of table t to the rank with the least load."""
    rows, dims, costs = tables.rows, tables.dims, tables.costs
    load, used = [0.0] * ranks, [0.0] * ranks
    placements = [Placement("replicated")] * len(rows)
    for t in sorted(shards, key=lambda t: (-costs[t] / shards[t], -rows[t], t)):
        nbytes = rows[t] * dims[t] * FLOAT_BYTES / shards[t]
        holders = []
        for _ in range(shards[t]):
            fitting = [r for r in range(ranks) if memory is None or used[r] + nbytes <= memory]
            rank = min(fitting or range(ranks), key=lambda r: (load[r], used[r], r))
            load[rank] += costs[t] / shards[t]
            used[rank] += nbytes
            holders.append(rank)
        placements[t] = _placement(tuple(holders), dims[t] // min_columns)
    plan = Plan(rows, one_width(dims), ranks, tuple(placements))
    mean = sum(load) / ranks
    fits = memory is None or all(plan.bytes_of(r) <= memory for r in range(ranks))
    return _Candidate(plan, max(load) / mean if mean else 1.0, fits)


def _placement(holders: tuple[int, ...], most_columns: int) -> Placement:
    """Split by columns if there are at most ``most_columns`` shards, else by rows."""
    if len(holders) == 1:
        return Placement("whole", holders)
    return Placement("columns" if len(holders) <= most_columns else "rows", holders)
