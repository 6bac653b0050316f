"""The columns that a preparation carries from its inputs to the set."""

from __future__ import annotations

from dataclasses import dataclass

from dlrmjit.data.formats.criteo_text import COLUMNS, INTEGERS
from dlrmjit.data.schema import CategoricalColumn, Schema


@dataclass(frozen=True)
class Layout:
    """Names and kinds of columns.

    In Criteo text, dense values are int32 and categories are 32-bit hashes. With a schema, dense
    values are float64, missing ones NaN, and categories are text, or numbers in bins. ``dense`` are
    the features of the set, which ``numbers`` parsed columns are made into; the last of these are
    the weights of rows if it is ``weighted``. The values of categorical column ``lists`` name the
    lists of rows; -1 without lists, and as many as there are categorical columns for a column that
    is no feature.
    """

    dense: tuple[str, ...]
    categorical: tuple[CategoricalColumn, ...]
    has_schema: bool
    soft_labels: bool = False
    numbers: int = INTEGERS
    weighted: bool = False
    lists: int = -1

    @property
    def has_list_column(self) -> bool:
        """Whether a column that is no feature names the lists."""
        return self.lists == len(self.categorical)

    @property
    def label_type(self) -> str:
        """Type of labels, parsed and in the set."""
        return "float32" if self.soft_labels else "uint8"

    @property
    def dense_type(self) -> str:
        """Type of parsed dense columns."""
        return "float64" if self.has_schema else "int32"

    @property
    def single(self) -> list[int]:
        """Tables of single-valued columns."""
        return [j for j, column in enumerate(self.categorical) if not column.is_multi]

    @property
    def multi(self) -> list[int]:
        """Tables of multi-valued columns."""
        return [j for j, column in enumerate(self.categorical) if column.is_multi]


CRITEO = Layout(
    COLUMNS[1 : 1 + INTEGERS],
    tuple(CategoricalColumn(name) for name in COLUMNS[1 + INTEGERS :]),
    has_schema=False,
)


def layout_of(schema: Schema | None) -> Layout:
    """Return the columns of ``schema``, or Criteo's if it is None."""
    if schema is None:
        return CRITEO
    names, numbers = schema.dense_features, len(schema.prepared_numbers)
    weighted, lists = bool(schema.weight), -1
    if schema.lists:
        lists = [*(c.name for c in schema.categorical), schema.lists].index(schema.lists)
    soft = schema.has_fractions
    return Layout(names, schema.categorical, True, soft, numbers, weighted, lists)
