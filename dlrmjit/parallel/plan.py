"""Where every row and column of every table lives: a plan, as a value.

A table is whole on one rank, cut into columns, dealt out by rows (row r to piece r mod G), or
replicated on all ranks. A plan mixes these table by table; it allocates nothing and can be
printed, stored, compared and folded onto fewer ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from dlrmjit.config.memory import FLOAT_BYTES
from dlrmjit.data.batch_shard import share_sizes, starts_of
from dlrmjit.errors import ConfigError, format_gib

Kind = Literal["whole", "columns", "rows", "replicated"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Placement:
    """How one table is spread: ``ranks`` hold its pieces in order; nobody in particular when
    it is replicated. A rank may hold several pieces."""

    kind: Kind
    ranks: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.kind if self.kind == "replicated" else f"{self.kind} on {_listed(self.ranks)}"


@dataclass(frozen=True)
class Shard:
    """Rows ``first_row``, ``first_row + row_step``, ... and some columns of a table on a rank."""

    table: int
    rank: int
    first_row: int
    row_step: int
    first_col: int
    last_col: int

    @property
    def width(self) -> int:
        """Columns."""
        return self.last_col - self.first_col

    def rows_of(self, rows: int) -> int:
        """Rows it has of a table of ``rows`` rows."""
        return -(-(rows - self.first_row) // self.row_step)

    def view_of(self, table: Any) -> Any:
        """The view of its part of an array (M, E)."""
        return table[self.first_row :: self.row_step, self.first_col : self.last_col]


@dataclass(frozen=True)
class Plan:
    """Placements of tables of ``table_rows`` rows and ``dim`` columns on ``ranks`` ranks.

    Raises
    ------
    ConfigError
        Naming the first table whose placement means nothing.
    """

    table_rows: tuple[int, ...]
    dim: int
    ranks: int
    placements: tuple[Placement, ...]

    def __post_init__(self) -> None:
        if len(self.placements) != len(self.table_rows):
            raise ConfigError(
                f"the plan places {len(self.placements)} tables, the model has "
                f"{len(self.table_rows)}"
            )
        for table, placement in enumerate(self.placements):
            _check(table, placement, self.ranks)

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """All pieces of tables that are not replicated, table after table."""
        return tuple(
            shard
            for table, placement in enumerate(self.placements)
            for shard in _shards(table, placement, self.table_rows[table], self.dim)
        )

    @cached_property
    def replicated(self) -> tuple[int, ...]:
        """Tables that every rank holds."""
        return tuple(t for t, p in enumerate(self.placements) if p.kind == "replicated")

    @property
    def cuts_columns(self) -> bool:
        """Whether rows of some table lie on several pieces."""
        return any(shard.width < self.dim for shard in self.shards)

    def of_rank(self, rank: int) -> tuple[Shard, ...]:
        """Pieces of one rank: equal widths together, then by table."""
        own = (shard for shard in self.shards if shard.rank == rank)
        return tuple(sorted(own, key=lambda s: (s.width, s.table, s.first_row, s.first_col)))

    def bytes_of(self, rank: int) -> int:
        """Bytes of weights on one rank, replicated tables included."""
        pieces = sum(s.rows_of(self.table_rows[s.table]) * s.width for s in self.of_rank(rank))
        copies = sum(self.table_rows[t] for t in self.replicated) * self.dim
        return (pieces + copies) * FLOAT_BYTES

    def columns_of(self, rank: int) -> int:
        """Pooled columns that a rank computes of every sample: its share of lookups and traffic."""
        return sum(shard.width for shard in self.of_rank(rank))

    def fold(self, ranks: int) -> Plan:
        """The same pieces on fewer ranks: runs of equal length become one rank."""
        if self.ranks % ranks:
            raise ConfigError(f"{self.ranks} shares cannot be dealt evenly to {ranks} ranks")
        each = self.ranks // ranks
        folded = tuple(
            Placement(p.kind, tuple(r // each for r in p.ranks)) for p in self.placements
        )
        return Plan(self.table_rows, self.dim, ranks, folded)

    def __str__(self) -> str:
        lines = [
            f"table {t}: {rows:,} x {self.dim}, {self.placements[t]}"
            for t, rows in enumerate(self.table_rows)
        ]
        lines += [
            f"rank {r}: {format_gib(self.bytes_of(r))}, "
            f"{self.columns_of(r):,} pooled columns per sample"
            for r in range(self.ranks)
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; :func:`plan_from_dict` reads it."""
        tables = [{"kind": p.kind, "ranks": list(p.ranks)} for p in self.placements]
        return {"ranks": self.ranks, "tables": tables}


def plan_from_dict(description: Mapping[str, Any], table_rows: Sequence[int], dim: int) -> Plan:
    """The plan of :meth:`Plan.to_dict` for tables of these sizes; ConfigError if it is none."""
    try:
        placements = tuple(
            Placement(entry["kind"], tuple(int(r) for r in entry.get("ranks", ())))
            for entry in description["tables"]
        )
        ranks = int(description["ranks"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            'a plan is {"ranks": R, "tables": [{"kind": K, "ranks": [...]}, ...]} with K one of '
            f"{', '.join(KINDS)}; this one is not: {error!r}"
        ) from None
    return Plan(tuple(table_rows), dim, ranks, placements)


def _check(table: int, placement: Placement, ranks: int) -> None:
    kind, holders = placement.kind, placement.ranks
    if kind not in KINDS:
        raise ConfigError(f"table {table}: {kind!r} is no way to place a table; {', '.join(KINDS)}")
    wrong = [rank for rank in holders if not 0 <= rank < ranks]
    if wrong:
        raise ConfigError(f"table {table} is placed on rank {wrong[0]}, but there are {ranks}")
    if kind == "whole" and len(holders) != 1:
        raise ConfigError(f"table {table} is whole: it needs one rank, not {list(holders)}")
    if kind in ("rows", "columns") and not holders:
        raise ConfigError(f"table {table} is cut into {kind}, but no rank holds any")


def _shards(table: int, placement: Placement, rows: int, dim: int) -> list[Shard]:
    """Pieces of one table; a table with fewer rows or columns than holders has fewer pieces."""
    holders = placement.ranks
    if placement.kind == "replicated":
        return []
    if placement.kind == "rows":
        holders = holders[:rows]
        return [Shard(table, r, i, len(holders), 0, dim) for i, r in enumerate(holders)]
    holders = holders[:dim]
    ends = starts_of(share_sizes(dim, len(holders)))
    return [Shard(table, r, 0, 1, a, b) for r, a, b in zip(holders, ends, ends[1:], strict=False)]


def _listed(ranks: tuple[int, ...]) -> str:
    if len(ranks) > 2 and ranks == tuple(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]} to {ranks[-1]}"
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))
