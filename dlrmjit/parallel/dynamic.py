"""Dynamic ids on many ranks: id mod R decides which rank has the row of an id.

A checkpoint has the rows of one rank after those of another, and the ids of all in the same order,
so that any number of ranks finds its own in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.autograd.tape import Parameter
from dlrmjit.errors import ConfigError
from dlrmjit.model.dynamic import DynamicRows, Place, arrays_of
from dlrmjit.model.tables import is_dynamic
from dlrmjit.ops.backend import Backend, Lookups, Origin
from dlrmjit.parallel.comm import Comm
from dlrmjit.parallel.plan import Placement, Plan, Shard

Int64 = NDArray[np.int64]


class SavedRows(NamedTuple):
    """Rows of tables with dynamic ids in a checkpoint, by column: all, and those before ours."""

    total: Mapping[int, int]
    first: Mapping[int, int]


def with_dynamic_rows(plan: Plan, architecture: Architecture) -> Plan:
    """Return a plan in which all ranks share the rows of tables with dynamic ids."""
    every = Placement("rows", tuple(range(plan.ranks)))
    placements = tuple(
        every if is_dynamic(architecture, spec) else placement
        for spec, placement in zip(architecture.table_specs, plan.placements, strict=True)
    )
    return Plan(plan.table_rows, plan.dim, plan.ranks, placements, plan.substituted)


def check_dynamic(architecture: Architecture, plan: Plan, micro_batches: int) -> None:
    """Raise ConfigError for what many ranks cannot do with dynamic ids."""
    if architecture.dynamic is None:
        return
    if micro_batches != plan.ranks:
        raise ConfigError(
            "dynamic ids are counted batch by batch, not by the micro-batches of --reproducible; "
            "leave one of the two out"
        )
    every = tuple(range(plan.ranks))
    for spec, placement in zip(architecture.table_specs, plan.placements, strict=True):
        if is_dynamic(architecture, spec) and (placement.kind, placement.ranks) != ("rows", every):
            raise ConfigError(
                f"{spec.name} has dynamic ids, of which id mod {plan.ranks} decides which rank has "
                f"the row, but it is placed {placement}; place its rows on all ranks in order"
            )
        if is_dynamic(architecture, spec) and spec.rows < plan.ranks:
            raise ConfigError(
                f"{spec.name} has {spec.rows} rows, fewer than the {plan.ranks} ranks; give it a "
                "larger limit"
            )


class ShardedIds:
    """The dynamic ids of one rank: which of its lookups they are, and their rows."""

    def __init__(
        self,
        architecture: Architecture,
        backend: Backend,
        shards: Sequence[tuple[Shard, Parameter, int, bool]],
    ) -> None:
        dynamic = architecture.dynamic
        assert dynamic is not None
        places: dict[int, list[Place]] = {column: [] for column in dynamic.columns}
        self._positions: dict[int, list[int]] = {column: [] for column in dynamic.columns}
        for number, (shard, parameter, slot, drawn) in enumerate(shards):
            spec = architecture.table_specs[shard.table]
            if spec.column in places:
                origin = Origin(shard.table, spec.rows, spec.dim)
                places[spec.column].append(Place(parameter, slot, origin, drawn))
                self._positions[spec.column].append(number)
        self.rows = DynamicRows(backend, dynamic, places)

    def rows_of(self, lookups: Lookups, *, training: bool) -> Lookups:
        """Return the lookups of this rank's shards with rows instead of ids.

        Shards of one column have the same ids, which are counted once.
        """
        first = [positions[0] for positions in self._positions.values()]
        found = self.rows.rows_of(lookups, first, training=training)
        indices, offsets = found.indices, found.offsets
        for one, *others in self._positions.values():
            rows = indices[offsets[one, 0] : offsets[one, -1]]
            for other in others:
                indices[offsets[other, 0] : offsets[other, -1]] = rows
        return found


def saved_rows(dynamic: DynamicRows | None, comm: Comm) -> SavedRows:
    """Return where the rows of this rank are among those of all; all ranks call this."""
    if dynamic is None:
        return SavedRows({}, {})
    columns, ranks = dynamic.columns, comm.size
    here = np.array(dynamic.used, np.int64)
    used = np.empty((ranks, len(columns)), np.int64)
    comm.allgatherv(here, used.reshape(-1), [len(here)] * ranks, name="checkpoint").wait()
    total, before = used.sum(axis=0), used[: comm.rank].sum(axis=0)
    return SavedRows(
        dict(zip(columns, total.tolist(), strict=True)),
        dict(zip(columns, before.tolist(), strict=True)),
    )


def gathered_ids(dynamic: DynamicRows | None, comm: Comm) -> dict[str, Int64]:
    """Return the ids of all ranks, in the order of :func:`saved_rows`; all ranks call this."""
    if dynamic is None:
        return {}
    state = dynamic.stored()
    for name, array in state.items():
        if name in arrays_of(dynamic.columns):
            state[name] = _gathered(array, comm)
    return state


def _gathered(array: Int64, comm: Comm) -> Int64:
    counts = np.empty(comm.size, np.int64)
    size = np.array([array.size], np.int64)
    comm.allgatherv(size, counts, [1] * comm.size, name="checkpoint").wait()
    whole = np.empty(int(counts.sum()), np.int64)
    flat = np.ascontiguousarray(array).reshape(-1)
    comm.allgatherv(flat, whole, counts.tolist(), name="checkpoint").wait()
    return whole.reshape(-1, *array.shape[1:])


def own_positions(
    stored: Mapping[str, Int64], columns: Sequence[int], comm: Comm
) -> dict[int, Int64]:
    """Return which saved rows of each column are this rank's, in their order."""
    found = {}
    for column in columns:
        keys, seen = stored[f"ids.{column}.keys"], stored[f"ids.{column}.last_seen"]
        found[column] = np.flatnonzero((keys % comm.size == comm.rank) & (seen > 0))
    return found


def own_ids(stored: Mapping[str, Int64], columns: Sequence[int], comm: Comm) -> dict[str, Int64]:
    """Return those of all saved ids that are this rank's."""
    state = dict(stored)
    for column, positions in own_positions(stored, columns, comm).items():
        for name in ("keys", "last_seen"):
            state[f"ids.{column}.{name}"] = stored[f"ids.{column}.{name}"][positions]
        waiting = stored[f"ids.{column}.waiting"]
        own = waiting[waiting[:, 0] % comm.size == comm.rank]
        state[f"ids.{column}.waiting"] = np.ascontiguousarray(own)
    return state
