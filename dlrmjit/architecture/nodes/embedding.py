"""Embedding tables over categorical columns, pooled by bag.

A column has one table, or with ``collisions`` two smaller ones (Shi et al., arXiv 1909.02107).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

from dlrmjit.architecture.node import Flops, Node, ParameterSpec, Recording, Shape, register_node
from dlrmjit.architecture.table_spec import TableSpec
from dlrmjit.errors import ConfigError

Initial = Literal["uniform", "zeros"]
Operation = Literal["mult", "add", "concat"]
Pooling = Literal["sum", "mean"]
_NEW = {
    "collisions": (),
    "operation": "mult",
    "pooling": "sum",
    "learned": False,
    "positions": 0,
}
"""Values that older checkpoints do not have, and are not stored where they are these."""


@register_node
@dataclass(frozen=True)
class Embedding(Node):
    """One table per categorical column; the result is one pooled vector of width ``dim`` each.

    Parameters
    ----------
    rows : rows M of each table
    dim : E, the width of the pooled vectors
    columns : the categorical column of each table; by default 0, 1, ...
    dims : width of each table, at most E; a narrower one is followed by a projection to E.
        Empty if all have width E
    initial : ``uniform`` in +- sqrt(1 / M), as the reference program's, or ``zeros``
    collisions : for each column 0, or a number c of values that share a row of its table: a second
        table, of c rows, has their remainders by c, the first their quotients. Empty if all are 0
    operation : how the pooled rows of both become one vector: ``mult``, ``add``, or ``concat``, in
        which both tables have width E / 2
    pooling : ``sum`` of a bag's rows, or ``mean``
    learned : whether every row has a weight in its bag that is trained, 1 at first
    positions : L > 0 does not pool: the result are the vectors (L, E) of the last L lookups of the
        only column, the last one last, after zeros where a bag has fewer
    """

    rows: tuple[int, ...] = ()
    dim: int = 0
    columns: tuple[int, ...] = ()
    dims: tuple[int, ...] = ()
    initial: Initial = "uniform"
    collisions: tuple[int, ...] = ()
    operation: Operation = "mult"
    pooling: Pooling = "sum"
    learned: bool = False
    positions: int = 0

    kind: ClassVar[str] = "embedding"
    fills_block: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rows", "columns", "dims", "collisions"):
            object.__setattr__(self, name, tuple(int(v) for v in getattr(self, name)))
        if not self.columns:
            object.__setattr__(self, "columns", tuple(range(len(self.rows))))
        self._check()
        if all(dim == self.dim for dim in self.dims):
            object.__setattr__(self, "dims", ())  # so that equal nodes are equal
        if not any(self.collisions):
            object.__setattr__(self, "collisions", ())
            object.__setattr__(self, "operation", "mult")

    def _check(self) -> None:
        if not self.rows or min(*self.rows, self.dim, self.dim) < 1:
            raise self.refuse(f"{self.rows} and {self.dim}", "positive rows and width")
        if len(self.columns) != len(self.rows) or min(self.columns) < 0:
            raise self.refuse(self.columns, "one column for every table")
        if self.dims and len(self.dims) != len(self.rows):
            raise self.refuse(self.dims, "one width for every table")
        if any(not 1 <= dim <= self.dim for dim in self.dims):
            raise self.refuse(self.dims, f"widths of tables from 1 to {self.dim}")
        if self.initial not in get_args(Initial):
            raise ConfigError(f"tables start as uniform or zeros, not {self.initial!r}")
        if self.pooling not in get_args(Pooling):
            raise ConfigError(f"pooling must be sum or mean, not {self.pooling!r}")
        self._check_collisions()
        self._check_positions()
        if self.learned and (self.projections or self.is_combined):
            raise ConfigError(
                "learned weights of pooling need one table of one width for every column; leave "
                "out other widths and quotient-remainder tables"
            )

    def _check_collisions(self) -> None:
        if self.operation not in get_args(Operation):
            raise ConfigError(
                f"quotients and remainders are combined by mult, add or concat, not "
                f"{self.operation!r}"
            )
        if not self.is_combined:
            return
        if len(self.collisions) != len(self.rows) or min(self.collisions) < 0:
            raise self.refuse(self.collisions, "a number of collisions, or 0, for every column")
        if self.projections:
            raise ConfigError(
                "quotient-remainder tables have one width; give no other widths of tables"
            )
        if self.operation == "concat" and self.dim % 2:
            raise self.refuse(self.dim, "an even width to concatenate two vectors")

    def _check_positions(self) -> None:
        if self.positions < 0:
            raise self.refuse(self.positions, "a positive number of positions, or 0")
        is_plain = len(self.rows) == 1 and self.pooling == "sum" and not self.learned
        if self.positions and not (is_plain and not self.dims and not self.is_combined):
            raise ConfigError(
                f"embedding node {self.name!r} has positions, which need one column with one table "
                "of width dim, neither means nor learned weights; leave these out"
            )

    @property
    def label(self) -> str:
        """All tables are one line of a profile."""
        return "embedding"

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of each table."""
        return self.dims or (self.dim,) * len(self.rows)

    @property
    def projections(self) -> dict[int, int]:
        """Widths of the tables narrower than E, by table."""
        return {s: dim for s, dim in enumerate(self.dims) if dim < self.dim}

    @property
    def is_combined(self) -> bool:
        """Whether some column has a table of quotients and one of remainders."""
        return any(self.collisions)

    @cached_property
    def tables(self) -> tuple[TableSpec, ...]:
        """All stored tables."""
        specs: list[TableSpec] = []
        for s, (column, rows, width) in enumerate(
            zip(self.columns, self.rows, self.widths, strict=True)
        ):
            count = self.collisions[s] if self.collisions else 0
            half = width // 2 if count and self.operation == "concat" else width
            parts = [("weight", rows, 0, 0)]
            if count:
                quotients = -(-rows // count)
                parts = [("weight_q", quotients, count, 0), ("weight_r", count, 0, count)]
            for part, part_rows, divisor, modulus in parts:
                name, slot, mean = f"{self.name}.{s}.{part}", len(specs), self.pooling == "mean"
                where, size = (name, self.name, slot, column), (part_rows, half, rows)
                specs.append(
                    TableSpec(*where, *size, divisor, modulus, mean, positions=self.positions)
                )
        return tuple(specs)

    @cached_property
    def row_weights(self) -> tuple[TableSpec, ...]:
        """The learned weights of pooling as tables of width 1, one for each table."""
        if not self.learned:
            return ()
        return tuple(
            table._replace(name=f"{self.name}.{table.slot}.pooling", dim=1) for table in self.tables
        )

    @property
    def slots(self) -> tuple[tuple[int, ...], ...]:
        """Numbers of the one or two stored tables of each column."""
        slots, first = [], 0
        for count in self.collisions or (0,) * len(self.rows):
            slots.append((first, first + 1) if count else (first,))
            first += len(slots[-1])
        return tuple(slots)

    @property
    def pooled_shape(self) -> tuple[int, int]:
        """Number of vectors that a sample looks up, and the width of the widest."""
        return self.positions or len(self.tables), max(table.dim for table in self.tables)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, without values that older checkpoints do not have."""
        return {
            name: value
            for name, value in super().to_dict().items()
            if name not in _NEW or getattr(self, name) != _NEW[name]
        }

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return (S, E), or (L, E) of positions."""
        if inputs:
            raise self.refuse(f"{len(inputs)} inputs", "no input")
        return self.positions or len(self.rows), self.dim

    def parameters(self, inputs: Sequence[Shape]) -> tuple[ParameterSpec, ...]:
        """Return the projections of narrow tables; the tables are not among the parameters."""
        return tuple(
            ParameterSpec(f"{s}.proj.weight", (self.dim, d)) for s, d in self.projections.items()
        )

    def record(self, recording: Recording) -> Any:
        """Record the lookups, and what makes vectors of width E of them."""
        pooled = recording.pooled()
        if self.positions:
            return recording.apply("positions", pooled, length=self.positions)
        if self.is_combined:
            return recording.apply(
                "combine",
                pooled,
                out=recording.out,
                slots=self.slots,
                operation=self.operation,
                dim=self.dim,
            )
        if not self.projections:
            return pooled
        weights = (recording.parameter(f"{s}.proj.weight") for s in self.projections)
        tables = tuple(self.projections)
        return recording.apply("projection", pooled, *weights, tables=tables, label="projection")

    def flops(self, inputs: Sequence[Shape], with_input_gradient: bool) -> Flops:
        """Return none: lookups are bytes; projections have a line of their own."""
        return Flops()

    @property
    def projection_flops(self) -> float:
        """Flops of the projections of one sample, forward."""
        return 2.0 * self.dim * sum(self.projections.values())

    def elements(self, inputs: Sequence[Shape]) -> int:
        """Return the pooled vectors, and copies of those of narrow or of combined tables."""
        vectors = (self.positions or len(self.rows)) * self.dim
        if self.is_combined:
            return vectors + math.prod(self.pooled_shape)
        return vectors + sum(self.projections.values())
