"""The sharded arrays of a checkpoint: tables, and the optimizer's state of their rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dlrmjit.checkpoint.manifest import Part
from dlrmjit.checkpoint.sharded_writer import ArrayShard
from dlrmjit.model.tables import rows_in_use
from dlrmjit.ops.backend import StoredArray
from dlrmjit.optim import STEP, Optimizer
from dlrmjit.parallel.dynamic import SavedRows
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.plan import Shard

NO_WRITER = -1  # of values that another rank has and writes


@dataclass(frozen=True)
class LocalShard(ArrayShard):
    """A shard on this rank of a column's table, and the rank that writes it.

    Replicated tables have one writer.
    """

    writer: int
    column: int


def table_shapes(model: ShardedModel, saved: SavedRows) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tables, (M, E)."""
    return {
        spec.name: (saved.total.get(spec.column, spec.rows), spec.dim) for spec in model.store.specs
    }


def table_shards(model: ShardedModel, saved: SavedRows) -> list[LocalShard]:
    """Return this rank's shards of the tables."""
    return [_local(model, shard, saved, values) for shard, values in model.store.shard_values()]


def _local(model: ShardedModel, shard: Shard, saved: SavedRows, values: StoredArray) -> LocalShard:
    spec = model.store.specs[shard.table]
    part = _part(model, shard, saved, len(values))
    return LocalShard(spec.name, part, values, max(shard.rank, 0), spec.column)


def state_shapes(
    model: ShardedModel, optimizer: Optimizer, saved: SavedRows
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all states of tables, (M, E) or (M,)."""
    per_element, per_row = _state_names(optimizer)
    shapes: dict[str, tuple[int, ...]] = {}
    for table, shape in table_shapes(model, saved).items():
        shapes |= {f"{table}.{name}": shape for name in per_element}
        shapes |= {f"{table}.{name}": shape[:1] for name in per_row}
    return shapes


def state_shards(
    model: ShardedModel, optimizer: Optimizer, saved: SavedRows
) -> Iterator[LocalShard]:
    """Yield this rank's shards of these states.

    All ranks with columns of a table have the values per row; the one with the first column
    writes them.
    """
    per_element, per_row = _state_names(optimizer)
    for parameter, shards in model.store.shards_by_parameter():
        state = optimizer.state(parameter)
        for i, shard in enumerate(shards):
            whole = _local(model, shard, saved, rows_in_use(parameter, i))
            count, part = len(whole.values), whole.part
            for name, tables in zip(per_element, state.tables, strict=False):
                yield replace(whole, name=f"{whole.name}.{name}", values=tables.table(i)[:count])
            rows = Part("", part.start, part.stop, part.step)
            writer = whole.writer if shard.first_col == 0 else NO_WRITER
            for name, tables in zip(per_row, state.tables[len(per_element) :], strict=False):
                values = tables.table(i)[:count].reshape(-1)
                of_state = replace(whole, name=f"{whole.name}.{name}", values=values)
                yield replace(of_state, part=rows, writer=writer)


def table_steps(model: ShardedModel, optimizer: Optimizer) -> dict[str, NDArray[np.int64]]:
    """Return the number of steps of every table by its name in a checkpoint: one for all."""
    if not any(_state_names(optimizer)):
        return {}
    steps = [optimizer.state(p).steps for p, _ in model.store.shards_by_parameter()]
    here = np.array([max(steps, default=0)], np.int64)  # 0 on a rank without tables
    everywhere = np.empty(model.comm.size, np.int64)
    model.comm.allgatherv(here, everywhere, [1] * model.comm.size, name="checkpoint").wait()
    return {f"{spec.name}.{STEP}": np.array(everywhere.max()) for spec in model.store.specs}


def steps_by_parameter(model: ShardedModel, steps: int) -> dict[str, NDArray[np.int64]]:
    """Return the number of steps by the optimizer's name of each parameter of tables."""
    count = np.array(steps, np.int64)
    parameters = (parameter for parameter, _ in model.store.shards_by_parameter())
    return {f"{parameter.table_names[0]}.{STEP}": count for parameter in parameters}


def _state_names(optimizer: Optimizer) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of states per element, and of those per row that outlive a step."""
    rule = optimizer.config.tables
    return rule.table_states, rule.row_states


def _part(model: ShardedModel, shard: Shard, saved: SavedRows, count: int) -> Part:
    rows = model.store.specs[shard.table].rows
    first = saved.first.get(model.store.specs[shard.table].column)
    if first is not None:
        return Part("", first, first + count)
    return Part("", shard.first_row, rows, shard.row_step, shard.first_col, shard.last_col)
