"""Checkpoints of a sharded model: every rank writes its shards, and reads those it needs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit.checkpoint import Checkpoint, check_config, open_checkpoint
from dlrmjit.checkpoint.destination import checkpoint_errors, new_checkpoint
from dlrmjit.checkpoint.preprocessing_files import read_preprocessing, write_preprocessing
from dlrmjit.checkpoint.reader import StoredArrays
from dlrmjit.checkpoint.sharded_writer import (
    Section,
    finish_checkpoint,
    write_shards,
)
from dlrmjit.config.model import AnyModelConfig, model_from_dict
from dlrmjit.errors import CheckpointError, ConfigError
from dlrmjit.model.dynamic import arrays_of
from dlrmjit.ops.backend import FloatArray, StoredArray
from dlrmjit.optim import Optimizer
from dlrmjit.parallel.checkpoint_shards import (
    LocalShard,
    state_shapes,
    state_shards,
    steps_by_parameter,
    table_shapes,
    table_shards,
    table_steps,
)
from dlrmjit.parallel.comm import Comm, exchange_json
from dlrmjit.parallel.dynamic import SavedRows, gathered_ids, own_ids, own_positions
from dlrmjit.parallel.model import ShardedModel

_TRIES = 5


def save_sharded(
    model: ShardedModel,
    path: str | os.PathLike[str],
    progress: Mapping[str, Any],
    optimizer: Optimizer | None = None,
) -> None:
    """Save ``model``, and the state of ``optimizer``, as the checkpoint directory ``path``.

    All ranks call this with the same directory, on a file system that all of them see. An older
    checkpoint there is replaced after every rank has written its shards. Raises CheckpointError on
    the rank that cannot write.
    """
    comm, saved = model.comm, model.store.saved_rows()
    ids = gathered_ids(model.store.dynamic, comm)
    steps = {} if optimizer is None else table_steps(model, optimizer)
    dense, states = _dense_parts(model, optimizer)
    if comm.rank > 0:
        # The first rank sends the name of the new directory when it exists.
        _write_shards(model, optimizer, saved, Path(exchange_json(comm, None)[0]), path)
        comm.barrier()
        return
    with new_checkpoint(path) as fresh:
        exchange_json(comm, str(fresh.resolve()))
        written = _write_shards(model, optimizer, saved, fresh, path)
        optimizer_state = Section({}, {})
        if optimizer is not None:
            whole = {**states, **steps}
            optimizer_state = Section(state_shapes(model, optimizer, saved), whole)
        finish_checkpoint(
            fresh,
            [entry for entries in written for entry in entries],
            Section(table_shapes(model, saved), dense | ids),
            optimizer_state,
            model_config=model.config.to_dict(),
            progress=progress,
            extra=write_preprocessing(fresh, model.preprocessing, Path(path)),
        )
    comm.barrier()


def _dense_parts(
    model: ShardedModel, optimizer: Optimizer | None
) -> tuple[dict[str, StoredArray], dict[str, FloatArray]]:
    """Return all parameters but the tables and their states, whole, if this rank needs them.

    The first rank writes them. The others have some of their columns, or nothing to do.
    """
    if model.comm.rank > 0 and not model.store.layers.layers:
        return {}, {}
    states = {} if optimizer is None else _whole_states(model, optimizer)
    return model.whole_dense_state(), states


def _whole_states(model: ShardedModel, optimizer: Optimizer) -> dict[str, FloatArray]:
    states = optimizer.config.mlps.states
    return model.store.layers.joined_states(optimizer.dense_state_dict(), states)


def restore_sharded(model: ShardedModel, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Fill ``model`` from a checkpoint of any number of ranks; return its progress.

    Raises CheckpointError like :func:`dlrmjit.training.persistence.restore`; the first rank
    compares the checksums of all files.
    """
    checkpoint = _open_together(model.comm, path)
    state, mlps = checkpoint.state, model.whole_dense_state()
    ids = _saved_ids(model, checkpoint)
    shapes = {name: array.shape for name, array in {**mlps, **ids.arrays}.items()}
    state.check({**table_shapes(model, ids.rows), **shapes}, strict=True)
    check_config(checkpoint.path, config_of(checkpoint).to_dict(), model.config.to_dict())
    state.read_into(mlps)
    model.load_dense(mlps)
    if model.store.dynamic is not None:
        model.store.dynamic.load(own_ids(ids.arrays, model.store.dynamic.columns, model.comm))
    _read_shards(state, table_shards(model, ids.rows), ids)
    model.preprocessing = read_preprocessing(checkpoint)
    return dict(checkpoint.progress)


class _SavedIds(NamedTuple):
    """The ids in a checkpoint, how many rows they have, and which of these are this rank's."""

    arrays: Mapping[str, NDArray[np.int64]]
    rows: SavedRows
    own: Mapping[int, NDArray[np.int64]]


def _saved_ids(model: ShardedModel, checkpoint: Checkpoint) -> _SavedIds:
    dynamic, state = model.store.dynamic, checkpoint.state
    if dynamic is None:
        return _SavedIds({}, SavedRows({}, {}), {})
    names = [name for name in dynamic.stored() if name in state]
    arrays = {name: state[name] for name in names}
    missing = [name for name in arrays_of(dynamic.columns) if name not in arrays]
    if missing:
        raise CheckpointError(f"{checkpoint.path}: it lacks {missing[0]}, the ids of a column")
    own = own_positions(arrays, dynamic.columns, model.comm)
    total = {column: len(arrays[f"ids.{column}.keys"]) for column in dynamic.columns}
    return _SavedIds(arrays, SavedRows(total, dict.fromkeys(total, 0)), own)


def _read_shards(stored: StoredArrays, shards: Iterable[LocalShard], ids: _SavedIds) -> None:
    for shard in shards:
        if shard.column in ids.own:
            stored.read_rows(shard.name, shard.values, ids.own[shard.column])
        else:
            stored.read_shard(shard.name, shard.values, shard.part)


def config_of(checkpoint: Checkpoint) -> AnyModelConfig:
    """Return the configuration of the saved model; raises CheckpointError for one of no model."""
    return described(checkpoint.model_config, checkpoint.path)


def described(model_config: Mapping[str, Any], path: object) -> AnyModelConfig:
    """Return the configuration that a file describes; ``path`` is its name in errors."""
    try:
        return model_from_dict(model_config)
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _open_together(comm: Comm, path: str | os.PathLike[str]) -> Checkpoint:
    """Open the same checkpoint on all ranks, also while a save replaces it."""
    for _ in range(_TRIES):
        checkpoint = open_checkpoint(path, verify=comm.rank == 0)
        if len(set(exchange_json(comm, checkpoint.digest))) == 1:
            return checkpoint
    raise CheckpointError(
        f"{path}: the ranks see different checkpoints; load it when no other run saves there, "
        "from a file system that all ranks share"
    )


def restore_sharded_optimizer(
    model: ShardedModel, optimizer: Optimizer, checkpoint: Checkpoint
) -> None:
    """Overwrite the state of ``optimizer`` by that of a checkpoint of any plan."""
    stored, dense = checkpoint.optimizer, _whole_states(model, optimizer)
    steps = table_steps(model, optimizer)
    shapes = {name: array.shape for name, array in {**dense, **steps}.items()}
    ids = _saved_ids(model, checkpoint)
    stored.check({**state_shapes(model, optimizer, ids.rows), **shapes}, strict=True)
    stored.read_into({**dense, **steps})
    _read_shards(stored, state_shards(model, optimizer, ids.rows), ids)
    step = max((int(count) for count in steps.values()), default=0)
    own = model.store.layers.split_states(dense, optimizer.config.mlps.states)
    optimizer.write_back({**own, **steps_by_parameter(model, step)})


def _write_shards(
    model: ShardedModel,
    optimizer: Optimizer | None,
    saved: SavedRows,
    fresh: Path,
    path: str | os.PathLike[str],
) -> list[Any]:
    """Write the shards of which this rank is the writer; return the records of all ranks."""
    states = state_shards(model, optimizer, saved) if optimizer else ()
    shards = [*table_shards(model, saved), *states]
    written = [shard for shard in shards if shard.writer == model.comm.rank]
    with checkpoint_errors(path):
        return exchange_json(model.comm, write_shards(fresh, model.comm.rank, written))
