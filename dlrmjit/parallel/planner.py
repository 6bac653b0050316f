"""Proposing a plan: from table sizes, lookups, ranks and memory alone; nothing is allocated.

Small tables are replicated. The others go whole to the rank with the least load, largest first;
while that leaves some rank with much more than its share, or out of memory, the costliest table
is cut in two, by columns as long as these stay wide enough for a vector, then by rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from dlrmjit.config.memory import FLOAT_BYTES
from dlrmjit.errors import ConfigError, MemoryLimitError, format_gib
from dlrmjit.parallel.plan import KINDS, Placement, Plan

SMALL_TABLE = 2048
"""Rows below which a table is replicated: its gradient is then smaller than its exchange."""

MIN_SHARD_COLUMNS = 16  # columns: one vector, and one cache line
_IMBALANCE = 1.25  # of the mean load, that no cut is made for


def propose(
    table_rows: Sequence[int],
    dim: int,
    ranks: int,
    *,
    kind: str = "auto",
    lookups: Sequence[int] | None = None,
    memory: int | None = None,
    min_columns: int = MIN_SHARD_COLUMNS,
) -> Plan:
    """A plan for tables of ``table_rows`` rows and ``dim`` columns.

    Parameters
    ----------
    kind : ``auto``, or one way for all tables: ``whole``, ``columns``, ``rows``, ``replicated``
    lookups : per bag of each table, 1 by default: the load that is balanced
    memory : bytes of one rank for tables, unlimited by default
    min_columns : least columns of a piece; ``dim`` for optimisers that need whole rows

    Raises
    ------
    ConfigError
        For an unknown kind.
    MemoryLimitError
        When the ranks together, or with this kind one of them, cannot hold the tables.
    """
    rows = tuple(table_rows)
    check_memory(rows, dim, ranks, memory)
    if kind == "auto":
        plan = _automatic(rows, dim, ranks, lookups or [1] * len(rows), memory, min_columns)
    elif kind in KINDS:
        plan = Plan(rows, dim, ranks, tuple(_uniform(kind, t, ranks) for t in range(len(rows))))
    else:
        raise ConfigError(f"unknown plan {kind!r}; known are auto, {', '.join(KINDS)}")
    _check_ranks(plan, memory)
    return plan


def check_memory(rows: Sequence[int], dim: int, ranks: int, memory: int | None) -> None:
    """Raise MemoryLimitError, with the number of ranks needed, for tables beyond all memory."""
    need = sum(rows) * dim * FLOAT_BYTES
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
                f"{format_gib(memory)} for tables; use more ranks, or cut tables by rows"
            )


def _uniform(kind: str, table: int, ranks: int) -> Placement:
    if kind == "replicated":
        return Placement("replicated")
    if kind == "whole":
        return Placement("whole", (table % ranks,))
    everyone = tuple((table + i) % ranks for i in range(ranks))
    return Placement("rows" if kind == "rows" else "columns", everyone)


def _automatic(
    rows: tuple[int, ...],
    dim: int,
    ranks: int,
    lookups: Sequence[int],
    memory: int | None,
    min_columns: int,
) -> Plan:
    if ranks == 1:
        return Plan(rows, dim, 1, (Placement("whole", (0,)),) * len(rows))
    cuts = {t: 1 for t, m in enumerate(rows) if m >= SMALL_TABLE}
    while True:
        plan, worst, fits = _deal(rows, dim, ranks, cuts, lookups, memory, min_columns)
        uncut = [t for t in cuts if _can_cut(t, rows, ranks, cuts)]
        if (fits and worst <= _IMBALANCE) or not uncut:
            return plan
        costliest = max(uncut, key=lambda t: (_cost(t, rows, cuts, lookups, fits), -t))
        cuts[costliest] = min(ranks, 2 * cuts[costliest])


def _can_cut(table: int, rows: Sequence[int], ranks: int, cuts: dict[int, int]) -> bool:
    return cuts[table] < min(ranks, rows[table])


def _cost(
    table: int, rows: Sequence[int], cuts: dict[int, int], lookups: Sequence[int], fits: bool
) -> float:
    """What one piece of a table weighs: its lookups, or its memory while that is short."""
    return (lookups[table] if fits else rows[table]) / cuts[table]


def _deal(
    rows: tuple[int, ...],
    dim: int,
    ranks: int,
    cuts: dict[int, int],
    lookups: Sequence[int],
    memory: int | None,
    min_columns: int,
) -> tuple[Plan, float, bool]:
    """A plan with tables in so many pieces, the largest load over the mean, whether it fits."""
    load, used = [0.0] * ranks, [0.0] * ranks
    placements = [Placement("replicated")] * len(rows)
    for t in sorted(cuts, key=lambda t: (-lookups[t] / cuts[t], -rows[t], t)):
        holders = []
        for _ in range(cuts[t]):
            room = [r for r in range(ranks) if _has_room(used[r], rows[t] * dim / cuts[t], memory)]
            rank = min(room or range(ranks), key=lambda r: (load[r], used[r], r))
            load[rank] += lookups[t] / cuts[t]
            used[rank] += rows[t] * dim * FLOAT_BYTES / cuts[t]
            holders.append(rank)
        placements[t] = _placement(tuple(holders), dim // min_columns)
    plan = Plan(rows, dim, ranks, tuple(placements))
    mean = sum(load) / ranks
    fits = memory is None or all(plan.bytes_of(r) <= memory for r in range(ranks))
    return plan, max(load) / mean if mean else 1.0, fits


def _has_room(used: float, elements: float, memory: int | None) -> bool:
    return memory is None or used + elements * FLOAT_BYTES <= memory


def _placement(holders: tuple[int, ...], most_columns: int) -> Placement:
    """Pieces by columns when there may be so many of them."""
    if len(holders) == 1:
        return Placement("whole", holders)
    return Placement("columns" if len(holders) <= most_columns else "rows", holders)
