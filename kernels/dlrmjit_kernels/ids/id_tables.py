"""Tables from 64-bit keys to rows: keys get rows when they are seen, and lose them with age."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.errors import ConfigError, ShapeError
from dlrmjit_kernels.ids import hash_table
from dlrmjit_kernels.ids.bucket import SLOTS
from dlrmjit_kernels.ids.hash_table import (
    ENTRIES,
    FREE,
    NEXT_FREE,
    SLOT_BYTES,
    USED,
    WITHOUT_ROW,
)
from dlrmjit_kernels.runtime import buffers
from dlrmjit_kernels.runtime.operands import INT64, check_array, check_disjoint

Int64 = NDArray[np.int64]

_LOAD = 0.7  # share of slots in use, beyond which searches get long
_FIRST_SLOTS = 1 << 10
_SWEEPS = 4  # of keys that are too old, within the greatest age
_MOST_STEPS = (1 << 31) - 1


class NewRows(NamedTuple):
    """Rows of a table that start with a batch, and their keys; their last values are of no use."""

    table: int
    rows: Int64
    keys: Int64


class IdTables:
    """``S`` tables that give each of any 64-bit keys a row below ``rows[s]``.

    A key gets a row when it has been seen ``after`` times in calls of :meth:`assign`. With
    ``max_age``, one that was not seen in that many calls after its last is forgotten, and its row
    given to another. A key for which there is no row left has none, -1. Rows depend on the keys
    and their order only, not on the number of threads.

    Raises
    ------
    ConfigError
        If ``after`` is less than 1 or ``max_age`` less than 0.
    """

    def __init__(self, rows: Sequence[int], after: int = 1, max_age: int = 0) -> None:
        if after < 1 or max_age < 0:
            raise ConfigError(
                f"keys need at least 1 sighting and an age of at least 0, not {after} and {max_age}"
            )
        self.rows, self.after, self.max_age = tuple(map(int, rows)), int(after), int(max_age)
        self.steps = 0
        self._counts = [np.zeros(5, np.int64) for _ in self.rows]
        self._free = [np.empty(0, np.int64) for _ in self.rows]
        self._slots = [_new_slots(_FIRST_SLOTS) for _ in self.rows]
        self._set_addresses()

    def _set_addresses(self) -> None:
        most = [len(each) // (2 * SLOTS) - 1 for each in self._slots]
        self._tables = (
            np.array([each.ctypes.data for each in self._slots], np.int64),
            np.array(most, np.int64),
            np.array([64 - each.bit_length() for each in most], np.int64),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __deepcopy__(self, memo: object) -> IdTables:
        made = copy.copy(self)
        made._counts = [each.copy() for each in self._counts]
        made._free = [each.copy() for each in self._free]
        made._slots = [_copied(each) for each in self._slots]
        made._set_addresses()
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: the keys, but not where the slots of this version have them."""
        tables = [self.stored(s) for s in range(len(self))]
        rules = (self.rows, self.after, self.max_age)
        return {"rules": rules, "steps": self.steps, "tables": tables}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["rules"])  # type: ignore[misc]
        self.steps = state["steps"]
        for s, stored in enumerate(state["tables"]):
            self.load(s, stored)

    @property
    def used(self) -> list[int]:
        """Number of the rows of each table that have ever been given to a key."""
        return [int(counts[USED]) for counts in self._counts]

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return sum(each.nbytes for each in self._slots)

    def find(self, keys: Int64, starts: Int64, stops: Int64, rows: Int64) -> None:
        """Write the row of each of ``keys[starts[s]:stops[s]]`` in table s to ``rows``, or -1.

        All arrays are int64, ``rows`` as long as ``keys``.
        """
        self._find(keys, starts, stops, rows, now=0)

    def assign(self, keys: Int64, starts: Int64, stops: Int64, rows: Int64) -> list[NewRows]:
        """As :meth:`find`, but count a step and sightings, and give rows to new keys.

        Returns the rows that start, of which each table has one entry at most.
        """
        if self.steps == _MOST_STEPS:
            raise ConfigError(f"keys are counted for {_MOST_STEPS} steps at most")
        self.steps += 1
        if self.max_age and self.steps % max(1, self.max_age // _SWEEPS) == 0:
            self.forget()
        missing = self._find(keys, starts, stops, rows, self.steps if self.max_age else 0)
        found = []
        for s in np.flatnonzero(missing).tolist():
            part = slice(starts[s], stops[s])
            new = self._insert(s, keys[part], rows[part], int(missing[s]))
            if len(new.rows):
                found.append(new)
        return found

    @property
    def _oldest(self) -> int:
        """The step before which a key must not have been seen last."""
        return max(0, self.steps - self.max_age) if self.max_age else 0

    def _find(self, keys: Int64, starts: Int64, stops: Int64, rows: Int64, now: int) -> Int64:
        keys = check_array("keys", keys, INT64, 1)
        starts = check_array("starts", starts, INT64, (len(self),))
        stops = check_array("stops", stops, INT64, (len(self),))
        rows = check_array("rows", rows, INT64, (len(keys),), written=True)
        check_disjoint("rows", rows, keys=keys, starts=starts, stops=stops)
        if len(self) and not (starts.min() >= 0 and np.all(starts <= stops)):
            raise ShapeError("the first key of a table must not be negative, nor follow its last")
        if len(self) and stops.max() > len(keys):
            raise ShapeError(f"{stops.max()} keys are to be found, but there are {len(keys)}")
        missing = np.zeros(len(self), np.int64)
        hash_table.find(self._tables, keys, starts, stops, (now, self._oldest), rows, missing)
        return missing

    def _insert(self, s: int, keys: Int64, rows: Int64, missing: int) -> NewRows:
        """Give rows to the ``missing`` keys of one table as far as they are due."""
        new = np.empty(missing, np.int64), np.empty(missing, np.int64), np.empty(missing, np.int64)
        done, at = np.zeros(2, np.int64), 0
        while at < len(keys):
            most = int(_LOAD * (len(self._slots[s]) // 2))
            rules = (self.rows[s], self.after, most)
            times = (self.steps, self._oldest)
            counts, free = self._counts[s], self._free[s]
            at = hash_table.insert(
                self._slots[s], keys, rows, at, times, rules, counts, free, new, done
            )
            if at < len(keys):
                self._resize(s, 2 * int(counts[ENTRIES]), oldest=0)
        started, given_back = done.tolist()
        self._give_back(s, new[2][:given_back])
        if self._counts[s][WITHOUT_ROW] > self.rows[s]:  # so that they need no more than rows do
            self._resize(s, 0, oldest=0, keeps_waiting=False)
        return NewRows(s, new[0][:started], new[1][:started])

    def forget(self) -> None:
        """Give back the rows of all keys that are too old; they have none already."""
        for s in range(len(self)):
            self._resize(s, 0, oldest=self._oldest)

    def _resize(self, s: int, entries: int, oldest: int, *, keeps_waiting: bool = True) -> None:
        """Copy the slots of a table to new ones, with room for so many; rows stay where they are.

        Keys last seen before step ``oldest`` are left out, or all without a row.
        """
        old, counts = self._slots[s], self._counts[s]
        slots = _new_slots(_slots_for(max(entries, int(counts[ENTRIES]))))
        gone = np.empty(int(counts[ENTRIES]), np.int64)
        left = hash_table.copy_slots(old, oldest, keeps_waiting, slots, counts, gone)
        self._slots[s] = slots
        self._set_addresses()
        self._give_back(s, gone[:left])

    def _give_back(self, s: int, rows: Int64) -> None:
        """Add rows to the free ones, which are given away in ascending order."""
        if len(rows):
            counts = self._counts[s]
            left = self._free[s][counts[NEXT_FREE] : counts[FREE]]
            self._free[s] = np.sort(np.concatenate([left, rows]))
            counts[NEXT_FREE], counts[FREE] = 0, len(self._free[s])

    def stored(self, s: int) -> dict[str, Int64]:
        """Return what :meth:`load` needs to continue table ``s``, as arrays of int64.

        ``keys`` (U,) has the key of each row that was ever used and ``last_seen`` (U,) its step, 0
        for a row that has no key; ``waiting`` (W, 3) keys without a row, ascending, their sightings
        and steps.
        """
        counts = self._counts[s]
        keys, seen = np.zeros(counts[USED], np.int64), np.zeros(counts[USED], np.int64)
        waiting = np.empty((3, int(counts[WITHOUT_ROW])), np.int64)
        hash_table.read_slots(self._slots[s], keys, seen, *waiting)
        order = np.argsort(waiting[0], kind="stable")
        return {"keys": keys, "last_seen": seen, "waiting": waiting[:, order].T.copy()}

    def load(self, s: int, stored: Mapping[str, Int64]) -> None:
        """Overwrite table ``s`` by what :meth:`stored` returned; :attr:`steps` are the caller's.

        Raises
        ------
        ShapeError
            For arrays that no table returned: more rows than it has, a key twice, other shapes.
        """
        keys = check_array("keys", stored["keys"], INT64, 1)
        seen = check_array("last_seen", stored["last_seen"], INT64, (len(keys),))
        waiting = check_array("waiting", stored["waiting"], INT64, (len(stored["waiting"]), 3))
        sightings, times = waiting[:, 1], np.concatenate([seen, waiting[:, 2]])
        if len(keys) > self.rows[s]:
            raise ShapeError(f"{len(keys)} rows have keys, but the table has {self.rows[s]}")
        is_right = np.all((times >= 0) & (times <= _MOST_STEPS)) and np.all(waiting[:, 2] > 0)
        if not is_right or not np.all((sightings >= 0) & (sightings < hash_table.WAITING)):
            raise ShapeError("steps and sightings of keys must be less than 2**31, not negative")
        held = np.flatnonzero(seen)
        words = np.concatenate(
            [
                (seen[held] << 32) | (held + 1),
                (waiting[:, 2] << 32) | hash_table.WAITING | sightings,
            ]
        )
        counts, every = np.zeros(5, np.int64), np.concatenate([keys[held], waiting[:, 0]])
        slots = _new_slots(_slots_for(len(every)))
        if not hash_table.write_slots(slots, every, words, counts):
            raise ShapeError("a key has two rows, or is also among those without one")
        counts[USED] = len(keys)
        self._slots[s], self._counts[s], self._free[s] = slots, counts, np.empty(0, np.int64)
        self._set_addresses()
        self._give_back(s, np.flatnonzero(seen == 0))


def _slots_for(entries: int) -> int:
    """Return a power of two of slots of which ``entries`` are not too many."""
    slots = _FIRST_SLOTS
    while int(_LOAD * slots) <= entries:
        slots *= 2
    return slots


def _new_slots(count: int) -> Int64:
    """Return free slots, on huge pages where they are many."""
    slots: Int64 = buffers.allocate(count * SLOT_BYTES).data.view(np.int64)
    return slots


def _copied(slots: Int64) -> Int64:
    copied = _new_slots(len(slots) // 2)
    copied[:] = slots
    return copied
