"""Tables from 64-bit keys to rows as dictionaries: what ``dlrmjit_kernels.ids`` must do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from dlrmjit_kernels.ids.id_tables import NewRows
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
_SWEEPS = 4  # of keys that are too old, within the greatest age


@dataclass
class _Key:
    """What is known of a key: its row or -1, its sightings without a row, its last step."""

    row: int
    sightings: int
    seen: int


@dataclass
class _Table:
    """The keys of one table, free rows in ascending order, and rows that were ever used."""

    keys: dict[int, _Key] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    used: int = 0

    def take_row(self, capacity: int) -> int:
        """Return the next free row, or -1."""
        if self.free:
            return self.free.pop(0)
        if self.used == capacity:
            return -1
        self.used += 1
        return self.used - 1


class ReferenceIdTables:
    """The interface and the rows of ``dlrmjit_kernels.ids.id_tables.IdTables``."""

    def __init__(self, rows: Sequence[int], after: int, max_age: int) -> None:
        self.rows, self.after, self.max_age, self.steps = tuple(rows), after, max_age, 0
        self._tables = [_Table() for _ in rows]

    @property
    def used(self) -> list[int]:
        """Number of the rows of each table that have ever been given to a key."""
        return [table.used for table in self._tables]

    @property
    def _oldest(self) -> int:
        return self.steps - self.max_age if self.max_age else 0

    def find(self, keys: Int64, starts: Int64, stops: Int64, rows: Int64) -> None:
        """Write the row of each key to ``rows``, or -1."""
        for table, start, stop in zip(self._tables, starts, stops, strict=True):
            for i in range(start, stop):
                known = table.keys.get(int(keys[i]))
                is_old = known is None or known.seen < self._oldest
                rows[i] = -1 if is_old or known is None else known.row

    def assign(self, keys: Int64, starts: Int64, stops: Int64, rows: Int64) -> list[NewRows]:
        """Count a step and sightings, give rows to new keys, and return the rows that start."""
        self.steps += 1
        if self.max_age and self.steps % max(1, self.max_age // _SWEEPS) == 0:
            for table in self._tables:
                self._drop(table, [k for k, v in table.keys.items() if v.seen < self._oldest])
        found = []
        for s, table in enumerate(self._tables):
            part = slice(starts[s], stops[s])
            new = self._assign(table, self.rows[s], keys[part].tolist(), rows[part])
            if new:
                given = np.array(list(new), np.int64)
                found.append(NewRows(s, given, np.array(list(new.values()), np.int64)))
        return found

    def _assign(self, table: _Table, capacity: int, keys: list[int], rows: Int64) -> dict[int, int]:
        new: dict[int, int] = {}
        given_back: list[int] = []
        for key in keys:  # known keys first: they have been seen, whatever their place in the batch
            known = table.keys.get(key)
            if known is not None and known.row >= 0 and known.seen >= self._oldest:
                known.seen = self.steps if self.max_age else known.seen
        for i, key in enumerate(keys):
            known = table.keys.get(key) or _Key(-1, 0, self.steps)
            if known.seen < self._oldest:
                row = known.row if self.after == 1 else -1
                if known.row >= 0 and row < 0:
                    given_back.append(known.row)
                known = _Key(-1, 0, self.steps)
            elif known.row >= 0:
                rows[i] = known.row
                continue
            else:
                row = -1
            sightings = min(known.sightings + 1, self.after)
            if sightings >= self.after and row < 0:
                row = table.take_row(capacity)
            rows[i] = row
            if row >= 0:
                new[row] = key
            elif self.after == 1:
                continue
            table.keys[key] = _Key(row, min(sightings, self.after - 1), self.steps)
        table.free = sorted([*table.free, *given_back])
        waiting = [key for key, known in table.keys.items() if known.row < 0]
        if len(waiting) > capacity:
            self._drop(table, waiting)
        return new

    def _drop(self, table: _Table, keys: Sequence[int]) -> None:
        rows = [table.keys.pop(key).row for key in keys]
        table.free = sorted([*table.free, *(row for row in rows if row >= 0)])

    def stored(self, s: int) -> dict[str, Int64]:
        """Return what :meth:`load` needs to continue table ``s``."""
        table = self._tables[s]
        keys, seen = np.zeros(table.used, np.int64), np.zeros(table.used, np.int64)
        waiting = []
        for key, known in table.keys.items():
            if known.row >= 0:
                keys[known.row], seen[known.row] = key, known.seen
            else:
                waiting.append((key, known.sightings, known.seen))
        rest = np.array(sorted(waiting), np.int64).reshape(-1, 3)
        return {"keys": keys, "last_seen": seen, "waiting": rest}

    def load(self, s: int, stored: Mapping[str, Int64]) -> None:
        """Overwrite table ``s`` by what :meth:`stored` returned."""
        table, held = (
            _Table(used=len(stored["keys"])),
            zip(stored["keys"].tolist(), stored["last_seen"].tolist(), strict=True),
        )
        for row, (key, seen) in enumerate(held):
            if seen:
                table.keys[key] = _Key(row, self.after - 1, seen)
            else:
                table.free.append(row)
        for key, sightings, seen in stored["waiting"].tolist():
            table.keys[key] = _Key(-1, sightings, seen)
        self._tables[s] = table
