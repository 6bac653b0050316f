"""Which columns a preparation carries from its inputs to the set."""

from __future__ import annotations

from dataclasses import dataclass

from dlrmjit.data.formats.criteo_text import COLUMNS, INTEGERS
from dlrmjit.data.schema import CategoricalColumn, Schema


@dataclass(frozen=True)
class Layout:
    """Names and kinds of columns.

    Numbers are whole (int32) in Criteo's text, where categories are words of 32 bits; with a
    schema they are float32, missing ones NaN, and categories are text.
    """

    dense: tuple[str, ...]
    categorical: tuple[CategoricalColumn, ...]
    has_schema: bool

    @property
    def dense_type(self) -> str:
        """Type of dense columns as parsed."""
        return "float32" if self.has_schema else "int32"

    @property
    def single(self) -> list[int]:
        """Numbers of the tables whose columns hold one value per row."""
        return [j for j, column in enumerate(self.categorical) if not column.is_multi]

    @property
    def multi(self) -> list[int]:
        """Numbers of the tables whose columns hold any number of values per row."""
        return [j for j, column in enumerate(self.categorical) if column.is_multi]


CRITEO = Layout(
    COLUMNS[1 : 1 + INTEGERS],
    tuple(CategoricalColumn(name) for name in COLUMNS[1 + INTEGERS :]),
    has_schema=False,
)


def layout_of(schema: Schema | None) -> Layout:
    """The columns of ``schema``, or Criteo's without one."""
    if schema is None:
        return CRITEO
    return Layout(tuple(c.name for c in schema.dense), schema.categorical, has_schema=True)
