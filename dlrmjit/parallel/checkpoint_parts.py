"""What a checkpoint of many ranks holds piece by piece: tables, and what is remembered of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.checkpoint.manifest import Part
from dlrmjit.optim import STEP, Optimizer
from dlrmjit.parallel.model import ShardedDLRM
from dlrmjit.parallel.plan import Shard

NOT_WRITTEN = -1  # writes what another rank has too


@dataclass(frozen=True)
class ArrayShard:
    """A part of an array that is spread over ranks: its values here, and who writes them."""

    name: str
    part: Part
    values: Any
    writer: int


def table_shapes(model: ShardedDLRM) -> dict[str, tuple[int, ...]]:
    """Shapes of all tables, (M, E)."""
    return {_name(t): (m, model.plan.dim) for t, m in enumerate(model.plan.table_rows)}


def table_shards(model: ShardedDLRM) -> list[ArrayShard]:
    """This rank's parts of the tables."""
    return [
        ArrayShard(_name(shard.table), _part(model, shard), values, max(shard.rank, 0))
        for shard, values in model.sharded.shard_values()
    ]


def state_shapes(model: ShardedDLRM, optimizer: Optimizer) -> dict[str, tuple[int, ...]]:
    """Shapes of all states of tables, (M, E) or (M,)."""
    wide, thin = _state_names(optimizer)
    shapes: dict[str, tuple[int, ...]] = {}
    for table, shape in table_shapes(model).items():
        shapes |= {f"{table}.{name}": shape for name in wide}
        shapes |= {f"{table}.{name}": shape[:1] for name in thin}
    return shapes


def state_shards(model: ShardedDLRM, optimizer: Optimizer) -> Iterator[ArrayShard]:
    """This rank's parts of those states; holders of columns all have the values per row."""
    wide, thin = _state_names(optimizer)
    for parameter, shards in model.sharded.parameters():
        state = optimizer.state(parameter)
        for i, shard in enumerate(shards):
            part, writer = _part(model, shard), max(shard.rank, 0)
            for name, tables in zip(wide, state.tables, strict=False):
                yield ArrayShard(f"{_name(shard.table)}.{name}", part, tables.table(i), writer)
            rows = Part("", part.start, part.stop, part.step)
            writer = writer if shard.first_col == 0 else NOT_WRITTEN
            for name, tables in zip(thin, state.tables[len(wide) :], strict=False):
                values = tables.table(i).reshape(-1)
                yield ArrayShard(f"{_name(shard.table)}.{name}", rows, values, writer)


def table_steps(model: ShardedDLRM, optimizer: Optimizer) -> dict[str, NDArray[np.int64]]:
    """Steps of every table by the names of a checkpoint; the same on all that have any."""
    if not any(_state_names(optimizer)):
        return {}
    steps = [optimizer.state(p).steps for p, _ in model.sharded.parameters()]
    most = np.array([max(steps, default=0)], np.int64)
    every = np.empty(model.comm.size, np.int64)
    model.comm.allgatherv(most, every, [1] * model.comm.size, name="checkpoint").wait()
    return {f"{table}.{STEP}": np.array(every.max()) for table in table_shapes(model)}


def steps_by_parameter(model: ShardedDLRM, steps: int) -> dict[str, NDArray[np.int64]]:
    """The same count under the names that the optimiser knows."""
    counted = np.array(steps, np.int64)
    return {f"{p.name}.0.weight.{STEP}": counted for p, _ in model.sharded.parameters()}


def _state_names(optimizer: Optimizer) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the tables' shape, and of one value per row; what only serves one step is left out."""
    rule = optimizer.config.tables
    return rule.table_states, rule.row_states[:1]


def _part(model: ShardedDLRM, shard: Shard) -> Part:
    rows = model.plan.table_rows[shard.table]
    return Part("", shard.first_row, rows, shard.row_step, shard.first_col, shard.last_col)


def _name(table: int) -> str:
    return f"emb_l.{table}.weight"
