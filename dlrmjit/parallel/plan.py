"""A plan: which rank has which rows and columns of every table, as a value.

A table is whole on one rank, split by columns, split by rows (row r goes to shard r mod G), or
replicated on all ranks. A plan chooses this table by table. It allocates nothing and can be
printed, stored, compared and folded onto fewer ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from dlrmjit.config.memory import FLOAT_BYTES
from dlrmjit.data.batch_shard import share_sizes, starts_of
from dlrmjit.errors import ConfigError, format_gib

Kind = Literal["whole", "columns", "rows", "replicated"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Placement:
    """How one table is distributed: ``ranks`` have its shards in order.

    A rank may have several shards. A replicated table has no ``ranks``: all have a copy.
    """

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
        """Number of columns."""
        return self.last_col - self.first_col

    def rows_of(self, rows: int) -> int:
        """Return the number of its rows, of a table of ``rows`` rows."""
        return -(-(rows - self.first_row) // self.row_step)

    def view_of(self, table: Any) -> Any:
        """Return the view of this shard of an array (M, E)."""
        return table[self.first_row :: self.row_step, self.first_col : self.last_col]


@dataclass(frozen=True)
class Plan:
    """Placements of tables of ``table_rows`` rows and ``dim`` columns on ``ranks`` ranks.

    ``dim`` is one width, or one per table. Of the embedding nodes called ``substituted``, ranks
    exchange sums instead of vectors, see :mod:`dlrmjit.parallel.exchanges.sums`.

    Raises
    ------
    ConfigError
        For the first table whose placement is invalid.
    """

    table_rows: tuple[int, ...]
    dim: int | tuple[int, ...]
    ranks: int
    placements: tuple[Placement, ...]
    substituted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", one_width(self.dim))
        if self.ranks < 1:
            raise ConfigError(f"a plan needs at least one rank, not {self.ranks}")
        if len(self.placements) != len(self.table_rows):
            raise ConfigError(
                f"the plan places {len(self.placements)} tables, but the model has "
                f"{len(self.table_rows)}"
            )
        for table, placement in enumerate(self.placements):
            _check(table, placement, self.ranks)

    @cached_property
    def dims(self) -> tuple[int, ...]:
        """Columns of each table."""
        return widths_of(self.dim, len(self.table_rows))

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """All shards of tables that are not replicated, by table."""
        return tuple(
            shard
            for table, placement in enumerate(self.placements)
            for shard in _shards(table, placement, self.table_rows[table], self.dims[table])
        )

    @cached_property
    def replicated(self) -> tuple[int, ...]:
        """Indices of the tables that every rank has."""
        return tuple(t for t, p in enumerate(self.placements) if p.kind == "replicated")

    @property
    def splits_columns(self) -> bool:
        """Whether some table is split by columns."""
        return any(shard.width < self.dims[shard.table] for shard in self.shards)

    def of_rank(self, rank: int) -> tuple[Shard, ...]:
        """Return the shards of one rank: by width, then by table."""
        shards = (shard for shard in self.shards if shard.rank == rank)
        return tuple(sorted(shards, key=lambda s: (s.width, s.table, s.first_row, s.first_col)))

    def bytes_of(self, rank: int) -> int:
        """Return the bytes of weights on one rank, replicated tables included."""
        shards = sum(s.rows_of(self.table_rows[s.table]) * s.width for s in self.of_rank(rank))
        replicated = sum(self.table_rows[t] * self.dims[t] for t in self.replicated)
        return (shards + replicated) * FLOAT_BYTES

    def columns_of(self, rank: int) -> int:
        """Return the pooled columns per sample of a rank, which measure its lookups and traffic."""
        return sum(shard.width for shard in self.of_rank(rank))

    def fold(self, ranks: int) -> Plan:
        """Return a plan with the same shards on fewer ranks: consecutive ranks become one.

        Raises ConfigError unless ``ranks`` divides the number of ranks of this plan.
        """
        if self.ranks % ranks:
            raise ConfigError(
                f"a plan for {self.ranks} ranks cannot be folded onto {ranks}; give a number of "
                f"ranks that divides {self.ranks}"
            )
        each = self.ranks // ranks
        folded = tuple(
            Placement(p.kind, tuple(r // each for r in p.ranks)) for p in self.placements
        )
        return replace(self, ranks=ranks, placements=folded)

    def __str__(self) -> str:
        lines = [
            f"table {t}: {rows:,} x {self.dims[t]}, {self.placements[t]}"
            for t, rows in enumerate(self.table_rows)
        ]
        lines += [
            f"rank {r}: {format_gib(self.bytes_of(r))}, "
            f"{self.columns_of(r):,} pooled columns per sample"
            for r in range(self.ranks)
        ]
        lines += [f"exchange of {name}: sums instead of vectors" for name in self.substituted]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, which :func:`plan_from_dict` reads."""
        tables = [{"kind": p.kind, "ranks": list(p.ranks)} for p in self.placements]
        exchange = dict.fromkeys(self.substituted, "substitute")
        description = {"ranks": self.ranks, "tables": tables}
        return {**description, "exchange": exchange} if exchange else description


def plan_from_dict(
    description: Mapping[str, Any], table_rows: Sequence[int], dim: int | Sequence[int]
) -> Plan:
    """Return the plan of a description by :meth:`Plan.to_dict`, for tables of these sizes.

    Raises ConfigError for an invalid description or placement.
    """
    try:
        placements = tuple(
            Placement(entry["kind"], _integers(entry.get("ranks", [])))
            for entry in description["tables"]
        )
        ranks = _integer(description["ranks"])
        exchange = _exchange(description.get("exchange", {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            'a plan is {"ranks": R, "tables": [{"kind": K, "ranks": [...]}, ...]} with K one of '
            f"{', '.join(KINDS)}; this one has another form: {error!r}"
        ) from None
    return Plan(tuple(table_rows), one_width(dim), ranks, placements, exchange)


def _exchange(entries: Any) -> tuple[str, ...]:
    """Return the names of the nodes of which sums are exchanged."""
    ways = {"alltoall", "substitute"}
    if not isinstance(entries, dict) or not set(map(str, entries.values())) <= ways:
        raise TypeError(f"{entries!r:.60} does not say alltoall or substitute by node")
    return tuple(name for name, way in entries.items() if way == "substitute")


def _integers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list | tuple):
        raise TypeError(f"{values!r:.60} is not a list of ranks")
    return tuple(_integer(value) for value in values)


def _integer(value: Any) -> int:
    """Return an integer of JSON. Raises TypeError for anything else, such as 1.5 or true."""
    if type(value) is not int:
        raise TypeError(f"{value!r:.60} is not an integer")
    return value


def one_width(dim: int | Sequence[int]) -> int | tuple[int, ...]:
    """Return one width where all tables have the same, so that equal plans are equal."""
    if isinstance(dim, int):
        return dim
    widths = set(dim)
    return widths.pop() if len(widths) == 1 else tuple(dim)


def widths_of(dim: int | Sequence[int], tables: int) -> tuple[int, ...]:
    """Return one width per table."""
    return (dim,) * tables if isinstance(dim, int) else tuple(dim)


def _check(table: int, placement: Placement, ranks: int) -> None:
    kind, holders = placement.kind, placement.ranks
    if kind not in KINDS:
        raise ConfigError(f"table {table}: unknown kind {kind!r}; known are {', '.join(KINDS)}")
    wrong = [rank for rank in holders if not 0 <= rank < ranks]
    if wrong:
        raise ConfigError(
            f"table {table} is placed on rank {wrong[0]}, but there are {ranks} ranks"
        )
    if kind == "whole" and len(holders) != 1:
        raise ConfigError(f"table {table} is whole: it needs one rank, not {list(holders)}")
    if kind in ("rows", "columns") and not holders:
        raise ConfigError(f"table {table} is split by {kind}, but no ranks are given")


def _shards(table: int, placement: Placement, rows: int, dim: int) -> list[Shard]:
    """Return the shards of one table: at most one per row or column."""
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
