"""Checkpoints of a sharded model: every rank writes its own shards, and reads those it needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlrmjit.checkpoint import Checkpoint, open_checkpoint
from dlrmjit.checkpoint.destination import checkpoint_errors, new_checkpoint
from dlrmjit.checkpoint.sharded_writer import (
    Section,
    finish_checkpoint,
    write_shards,
)
from dlrmjit.optim import Optimizer
from dlrmjit.parallel.checkpoint_parts import (
    state_shapes,
    state_shards,
    steps_by_parameter,
    table_shapes,
    table_shards,
    table_steps,
)
from dlrmjit.parallel.comm import exchange_json
from dlrmjit.parallel.model import ShardedDLRM


def save_sharded(
    model: ShardedDLRM,
    path: str | os.PathLike[str],
    progress: Mapping[str, Any],
    optimizer: Optimizer | None = None,
) -> None:
    """Keep ``model``, and what ``optimizer`` remembers, as the checkpoint directory ``path``.

    All ranks call this. The directory must be the same for all ranks. The old checkpoint there
    stays whole until every rank has written its part. Raises CheckpointError on the rank that
    cannot write.
    """
    comm = model.comm
    steps = {} if optimizer is None else table_steps(model, optimizer)
    if comm.rank > 0:
        _write_shards(model, optimizer, Path(exchange_json(comm, None)[0]), path)
        comm.barrier()
        return
    with new_checkpoint(path) as fresh:
        exchange_json(comm, str(fresh.resolve()))
        written = _write_shards(model, optimizer, fresh, path)
        remembered = Section({}, {})
        if optimizer is not None:
            whole = {**optimizer.dense_state_dict(), **steps}
            remembered = Section(state_shapes(model, optimizer), whole)
        finish_checkpoint(
            fresh,
            [entry for entries in written for entry in entries],
            Section(table_shapes(model), model.mlp_state()),
            remembered,
            model_config=model.config.to_dict(),
            progress=progress,
        )
    comm.barrier()


def restore_sharded(model: ShardedDLRM, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Fill ``model`` from a checkpoint of any number of ranks; what was kept with it.

    Raises CheckpointError as :func:`dlrmjit.training.persistence.restore`; the first rank compares
    the checksums of all files.
    """
    checkpoint = open_checkpoint(path, verify=model.comm.rank == 0)
    state, mlps = checkpoint.state, model.mlp_state()
    state.check(table_shapes(model))
    state.read_into(mlps)
    model.load_mlps(mlps)
    for piece in table_shards(model):
        state.read_shard(piece.name, piece.values, piece.part)
    return dict(checkpoint.progress)


def restore_sharded_optimizer(
    model: ShardedDLRM, optimizer: Optimizer, checkpoint: Checkpoint
) -> None:
    """Overwrite what ``optimizer`` remembers by what a checkpoint of any plan keeps."""
    kept, dense = checkpoint.optimizer, optimizer.dense_state_dict()
    steps = table_steps(model, optimizer)
    kept.check(state_shapes(model, optimizer))
    kept.read_into({**dense, **steps})
    for piece in state_shards(model, optimizer):
        kept.read_shard(piece.name, piece.values, piece.part)
    counted = max((int(count) for count in steps.values()), default=0)
    optimizer.write_back({**dense, **steps_by_parameter(model, counted)})


def _write_shards(
    model: ShardedDLRM,
    optimizer: Optimizer | None,
    fresh: Path,
    path: str | os.PathLike[str],
) -> list[Any]:
    """Write this rank's pieces, the first rank those that all have; records of all ranks."""
    pieces = [*table_shards(model), *(state_shards(model, optimizer) if optimizer else ())]
    own = [(p.name, p.part, p.values) for p in pieces if p.writer == model.comm.rank]
    with checkpoint_errors(path):
        return exchange_json(model.comm, write_shards(fresh, model.comm.rank, own))
