"""Learning rates of the tables of single columns, which a configuration names.

A column may have several tables: vectors, first-order weights, quotients and remainders, and
learned weights of pooling. All of them have its rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.errors import ConfigError
from dlrmjit.model.model import Model

if TYPE_CHECKING:
    from dlrmjit.data.prepared.preprocessing import Preprocessing

TableRates = Mapping[str, NDArray[np.float64]]
"""Multiples (S,) of the MLPs' learning rate for a parameter's tables, by the parameter's name."""
_SHOWN = 30  # names of columns in a message


def table_rates(model: Model, config: UpdateConfig) -> TableRates:
    """Return the rates of the parameters of which some table has a rate of its own.

    Raises ConfigError for a column that the model does not have.
    """
    if not config.column_rates:
        return {}
    architecture = model.architecture
    names = names_of(model.preprocessing)
    rates = by_number(config.column_rates, names, architecture.tables)
    specs = (*architecture.table_specs, *architecture.row_weight_specs)
    of_table = {spec.name: rates.get(spec.column, config.tables_rate) for spec in specs}
    own = {spec.name for spec in specs if spec.column in rates}
    return {
        parameter: np.array([of_table[table] for table in tables])
        for parameter, tables in model.store.table_names().items()
        if own & set(tables)
    }


def names_of(rules: Preprocessing | None) -> Sequence[str]:
    """Return the names of the categorical columns of data with these rules; none without."""
    return () if rules is None else [column.name for column in rules.columns]


def by_number(
    rates: Mapping[str | int, float], names: Sequence[str], columns: int
) -> dict[str | int, float]:
    """Return rates by the number of a column, of rates by its name or its number.

    The first ``columns`` have numbers, by which they are found if no column has such a name. Raises
    ConfigError for a column that is not there, or given twice.
    """
    found: dict[str | int, float] = {}
    for column, rate in rates.items():
        number = column_number(column, names, columns)
        if number is None:
            raise ConfigError(
                f"there is no categorical column {column!r} for a learning rate of its own; "
                f"{known_columns(names, columns)}"
            )
        if number in found:
            raise ConfigError(f"column {column!r} has two learning rates; give one")
        found[number] = rate
    return found


def column_number(column: str | int, names: Sequence[str], columns: int) -> int | None:
    """Return the number of a column given by its name or its number, None if there is none."""
    numbers = {str(i): i for i in range(columns)} | {name: i for i, name in enumerate(names)}
    return numbers.get(str(column))


def known_columns(names: Sequence[str], columns: int) -> str:
    """Return which columns there are."""
    if not names:
        return f"they have the numbers 0 to {columns - 1}" if columns else "there is none"
    more = f" and {len(names) - _SHOWN} others" if len(names) > _SHOWN else ""
    return f"they are {', '.join(map(repr, names[:_SHOWN]))}{more}"
