"""Embedding tables over categorical columns, pooled by bag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from dlrmjit.architecture.node import Flops, Node, ParameterSpec, Recording, Shape, register_node
from dlrmjit.errors import ConfigError

Initial = Literal["uniform", "zeros"]


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
    """

    rows: tuple[int, ...] = ()
    dim: int = 0
    columns: tuple[int, ...] = ()
    dims: tuple[int, ...] = ()
    initial: Initial = "uniform"

    kind: ClassVar[str] = "embedding"
    fills_block: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rows", "columns", "dims"):
            object.__setattr__(self, name, tuple(int(v) for v in getattr(self, name)))
        if not self.columns:
            object.__setattr__(self, "columns", tuple(range(len(self.rows))))
        self._check()
        if all(dim == self.dim for dim in self.dims):
            object.__setattr__(self, "dims", ())  # so that equal nodes are equal

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

    def table_name(self, table: int) -> str:
        """Return the name of a table's parameter."""
        return f"{self.name}.{table}.weight"

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return (S, E)."""
        if inputs:
            raise self.refuse(f"{len(inputs)} inputs", "no input")
        return len(self.rows), self.dim

    def parameters(self, inputs: Sequence[Shape]) -> tuple[ParameterSpec, ...]:
        """Return the projections of narrow tables; the tables are not among the parameters."""
        return tuple(
            ParameterSpec(f"{s}.proj.weight", (self.dim, d)) for s, d in self.projections.items()
        )

    def record(self, recording: Recording) -> Any:
        """Record the lookups, and the projections of narrow tables."""
        pooled = recording.pooled()
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
        """Return the pooled vectors, and copies of those of narrow tables."""
        return len(self.rows) * self.dim + sum(self.projections.values())
