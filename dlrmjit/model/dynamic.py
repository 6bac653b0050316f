"""Rows for the ids of dynamic columns: which ones they have, and how a new one starts.

A step begins by exchanging ids for rows of the tables, so that whatever follows, whichever
optimizer or precision, looks up rows as in any other table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit.architecture.dynamic_ids import DynamicIds
from dlrmjit.autograd.tape import Parameter
from dlrmjit.errors import CheckpointError, ShapeError
from dlrmjit.ops.backend import Backend, Lookups, Origin

Int64 = NDArray[np.int64]
_STATE = "ids.state"
_ARRAYS = ("keys", "last_seen", "waiting")


def arrays_of(columns: Sequence[int]) -> list[str]:
    """Return the names of the arrays with the ids of some columns, as in checkpoints."""
    return [f"ids.{column}.{name}" for column in columns for name in _ARRAYS]


class Place(NamedTuple):
    """A table that a column looks up: ``slot`` of a parameter, and which part of the model it is.

    If not ``drawn``, its rows start as zeros.
    """

    parameter: Parameter
    slot: int
    origin: Origin
    drawn: bool


class Restarted(NamedTuple):
    """Rows of a table that have started again, so that their optimizer states must, too."""

    parameter: Parameter
    slot: int
    rows: Int64


class DynamicRows:
    """The ids of all dynamic columns of one process, and the rows of their tables.

    ``places`` are the tables of each column, which have the same rows.
    """

    def __init__(
        self, backend: Backend, dynamic: DynamicIds, places: Mapping[int, Sequence[Place]]
    ) -> None:
        self._backend, self._places = backend, {c: tuple(places[c]) for c in dynamic.columns}
        self.columns = dynamic.columns
        rows = [self._rows_of(found) for found in self._places.values()]
        self._ids = backend.id_tables(rows, dynamic.after, dynamic.max_age)
        self._seed = 0
        self._restarted: list[Restarted] = []
        self._targets: dict[str, Int64] | None = None
        self._set_used()

    @property
    def used(self) -> list[int]:
        """Rows of each column's tables that were ever used."""
        used: list[int] = self._ids.used
        return used

    def _rows_of(self, places: Sequence[Place]) -> int:
        return min(int(p.parameter.data.rows[p.slot]) for p in places)

    def start(self, seed: int) -> None:
        """Forget all ids; rows are drawn from ``seed`` and their ids from now on."""
        self._seed, self._ids.steps = seed, 0
        nothing = {"keys": np.empty(0, np.int64), "last_seen": np.empty(0, np.int64)}
        for s in range(len(self.columns)):
            self._ids.load(s, {**nothing, "waiting": np.empty((0, 3), np.int64)})
        self._set_used()

    def rows_of(self, lookups: Lookups, positions: Sequence[int], *, training: bool) -> Lookups:
        """Return lookups of rows instead of ids; -1 is the row of an id that has none.

        Column c of the dynamic ones is at ``positions[c]`` of the lookups. With ``training`` ids
        are counted and get rows.
        """
        indices = lookups.indices.astype(np.int64)
        starts = np.ascontiguousarray(lookups.offsets[list(positions), 0])
        stops = np.ascontiguousarray(lookups.offsets[list(positions), -1])
        rows = indices.copy()
        if not training:
            self._ids.find(indices, starts, stops, rows)
            return lookups._replace(indices=rows)
        for new in self._ids.assign(indices, starts, stops, rows):
            self._begin(self._places[self.columns[new.table]], new.rows, new.keys)
        self._set_used()
        return lookups._replace(indices=rows)

    def _begin(self, places: Sequence[Place], rows: Int64, keys: Int64) -> None:
        """Give rows their initial values."""
        for parameter, slot, origin, drawn in places:
            table = parameter.data.table(slot)
            if drawn:
                self._backend.initialise_rows(table, rows, keys, self._seed, origin)
            else:
                table[rows] = np.zeros((len(rows), table.shape[1]), np.float32)
            self._restarted.append(Restarted(parameter, slot, rows))

    def restarted(self) -> list[Restarted]:
        """Return the rows that have started since the last call."""
        found, self._restarted = self._restarted, []
        return found

    def _set_used(self) -> None:
        """Let parameters say how many of their rows are in use, of dynamic tables and of others."""
        for column, used in zip(self.columns, self._ids.used, strict=True):
            for parameter, slot, _, _ in self._places[column]:
                in_use = parameter.rows_in_use or list(parameter.data.rows)
                in_use[slot] = used
                parameter.rows_in_use = in_use

    def stored(self) -> dict[str, Int64]:
        """Return the ids as arrays for a checkpoint, or those that :meth:`make_room` made."""
        if self._targets is not None:
            return self._targets
        state = {_STATE: np.array([self._ids.steps, self._seed], np.int64)}
        return state | dict(self._arrays())

    def _arrays(self) -> Iterator[tuple[str, Int64]]:
        for s, column in enumerate(self.columns):
            for name, array in self._ids.stored(s).items():
                yield f"ids.{column}.{name}", array

    def shapes_in(
        self, wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]]
    ) -> dict[str, tuple[int, ...]]:
        """Return shapes of the model's arrays, with as many ids and rows as stored ones have.

        Raises CheckpointError for more ids than a table has rows.
        """
        shapes = dict(wanted)
        for column, places in self._places.items():
            used = stored.get(f"ids.{column}.keys", (0,))[0]
            if used > self._rows_of(places):
                raise CheckpointError(
                    f"column {column} has {used} ids in the checkpoint, but its table has "
                    f"{self._rows_of(places)} rows"
                )
            for parameter, slot, _, _ in places:
                name = parameter.table_names[slot]
                shapes[name] = (used, *shapes[name][1:])
        for name in arrays_of(self.columns):
            if name in stored:
                shapes[name] = (stored[name][0], *shapes[name][1:])
        return shapes

    def make_room(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Let :meth:`stored` return arrays of these shapes, to be filled for :meth:`load`."""
        self._targets = {name: np.empty(shapes[name], np.int64) for name in self.stored()}
        for column, places in self._places.items():
            for parameter, slot, _, _ in places:
                parameter.rows_in_use[slot] = shapes[f"ids.{column}.keys"][0]

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue with the ids of a checkpoint.

        Raises CheckpointError for those of no model.
        """
        self._targets, steps_and_seed = None, np.asarray(state[_STATE])
        try:
            for s, column in enumerate(self.columns):
                arrays = {name: np.asarray(state[f"ids.{column}.{name}"]) for name in _ARRAYS}
                self._ids.load(s, arrays)
        except ShapeError as error:
            raise CheckpointError(f"the ids of column {column}: {error}") from error
        self._ids.steps, self._seed = (int(value) for value in steps_and_seed)
        self._set_used()
