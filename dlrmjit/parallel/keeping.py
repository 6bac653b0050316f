"""Checkpoints of a sharded model: every rank writes its own shards, and reads those it needs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlrmjit.checkpoint import open_checkpoint
from dlrmjit.checkpoint.manifest import Part
from dlrmjit.checkpoint.shards import finish_checkpoint, new_checkpoint, told, write_shards
from dlrmjit.parallel.comm import Comm
from dlrmjit.parallel.model import ShardedDLRM
from dlrmjit.parallel.sharding import Shard


def save_sharded(
    model: ShardedDLRM, path: str | os.PathLike[str], progress: Mapping[str, Any]
) -> None:
    """Keep ``model`` as the checkpoint directory ``path``; all ranks call this.

    The directory must be the same for all ranks. The old checkpoint there stays whole until
    every rank has written its part. Raises CheckpointError on the rank that cannot write.
    """
    comm = model.comm
    if comm.rank > 0:
        _write_own(model, Path(exchange_json(comm, None)[0]), path)
        comm.barrier()
        return
    with new_checkpoint(path) as fresh:
        exchange_json(comm, str(fresh.resolve()))
        written = _write_own(model, fresh, path)
        finish_checkpoint(
            fresh,
            [entry for entries in written for entry in entries],
            {_name(t): (m, model.plan.dim) for t, m in enumerate(model.plan.table_rows)},
            model.mlp_state(),
            model_config=model.config.to_dict(),
            progress=progress,
        )
    comm.barrier()


def restore_sharded(model: ShardedDLRM, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Fill ``model`` from a checkpoint of any number of ranks; what was kept with it.

    Raises CheckpointError as :func:`dlrmjit.persistence.restore`; the first rank compares the
    checksums of all files.
    """
    checkpoint = open_checkpoint(path, verify=model.comm.rank == 0)
    state, rows, dim = checkpoint.state, model.plan.table_rows, model.plan.dim
    mlps = model.mlp_state()
    state.check({_name(t): (m, dim) for t, m in enumerate(rows)})
    state.read_into(mlps)
    model.load_mlps(mlps)
    for shard, values in model.sharded.pieces():
        state.read_shard(_name(shard.table), values, _part(shard, rows[shard.table]))
    return dict(checkpoint.progress)


def exchange_json(comm: Comm, value: Any) -> list[Any]:
    """What every rank gives, on every rank."""
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.empty(comm.size, np.int64)
    comm.allgatherv(np.array([text.size]), sizes, [1] * comm.size, name="checkpoint").wait()
    every = np.empty(int(sizes.sum()), np.uint8)
    comm.allgatherv(text, every, sizes.tolist(), name="checkpoint").wait()
    ends = np.cumsum(sizes)
    return [json.loads(every[e - s : e].tobytes()) for s, e in zip(sizes, ends, strict=True)]


def _write_own(model: ShardedDLRM, fresh: Path, path: str | os.PathLike[str]) -> list[Any]:
    """Write this rank's shards, the first rank replicated tables too; records of all ranks."""
    rows, rank = model.plan.table_rows, model.comm.rank
    shards = [
        (_name(shard.table), _part(shard, rows[shard.table]), values)
        for shard, values in model.sharded.pieces()
        if shard.rank == rank or rank == 0
    ]
    with told(path):
        return exchange_json(model.comm, write_shards(fresh, rank, shards))


def _part(shard: Shard, rows: int) -> Part:
    return Part("", shard.first_row, rows, shard.row_step, shard.first_col, shard.last_col)


def _name(table: int) -> str:
    return f"emb_l.{table}.weight"
