"""Models kept on disk: ours as a directory, the reference program's as a ``.pt`` file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlrmjit.checkpoint import (
    Checkpoint,
    open_checkpoint,
    read_torch_file,
    save_checkpoint,
    write_torch_file,
)
from dlrmjit.checkpoint.torch_format.optimizer import from_torch, to_torch
from dlrmjit.checkpoint.torch_format.reader import MIXED_NAME
from dlrmjit.checkpoint.torch_format.writer import sgd_state
from dlrmjit.config.model import IN_MEMORY, ModelConfig, TableConfig
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.errors import CheckpointError, ConfigError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.ops.backend import StoredArray
from dlrmjit.optim import Optimizer
from dlrmjit.parallel.checkpoint import restore_sharded, restore_sharded_optimizer, save_sharded
from dlrmjit.parallel.model import ShardedDLRM
from dlrmjit.precision import Precision

TORCH_SUFFIX = ".pt"
PathLike = str | os.PathLike[str]


def save(
    model: DLRM,
    path: PathLike,
    *,
    progress: Mapping[str, Any] | None = None,
    optimizer: Optimizer | None = None,
) -> None:
    """Keep ``model`` at ``path``: a directory, or the reference's format for a name in ``.pt``.

    ``progress`` is any JSON-ready mapping to be read back with the model: positions, results.
    In a ``.pt`` file its ``learning_rate`` goes where PyTorch's optimiser looks for it. What the
    ``optimizer`` remembers is kept too, for :func:`restore_optimizer`.
    What was at ``path`` before stays whole until the new checkpoint is.

    Raises CheckpointError when it cannot be written.
    """
    progress = dict(progress or {})
    if _is_torch(path):
        state = model.stored()
        if isinstance(model, ShardedDLRM) and model.comm.rank > 0:
            return
        rate = progress.pop("learning_rate", 0.0)
        nested = _nested(optimizer, list(state), rate)
        write_torch_file(path, _named_as_reference(model, state), progress, nested)
    elif isinstance(model, ShardedDLRM):
        save_sharded(model, path, progress | _described(optimizer), optimizer)
    else:
        progress |= _described(optimizer)
        save_checkpoint(
            path,
            model.stored(),
            model_config=model.config.to_dict(),
            progress=progress,
            optimizer=optimizer.state_dict() if optimizer else None,
        )


def _named_as_reference(model: DLRM, state: Mapping[str, StoredArray]) -> Mapping[str, StoredArray]:
    """With tables of several widths, the reference calls each of them otherwise."""
    if not model.projections:
        return state
    ending = re.compile(r"^(emb_l\.\d+)\.weight$")
    return {ending.sub(rf"\1{MIXED_NAME}", name): array for name, array in state.items()}


def _described(optimizer: Optimizer | None) -> dict[str, Any]:
    return {} if optimizer is None else {"optimizer": optimizer.config.to_dict()}


def _nested(optimizer: Optimizer | None, parameters: list[str], rate: float) -> dict[str, Any]:
    """``opt_state_dict``, which the reference wants even where there is no state."""
    if optimizer is None:
        return sgd_state(len(parameters), rate)
    return to_torch(optimizer.config.mlps, parameters, optimizer.state_dict(), rate)


def load(
    path: PathLike,
    *,
    backend: str | None = None,
    precision: Precision | None = None,
    tables: TableConfig = IN_MEMORY,
) -> DLRM:
    """The model kept at ``path``, in ``precision``, or by default in the one it was kept in.

    Either way no bit of a parameter is lost. A ``.pt`` file keeps ``fp32``. ``tables`` says where
    they are kept from now on.

    Raises CheckpointError when there is none, or it is damaged; MemoryLimitError when it does
    not fit into this machine.
    """
    return load_run(path, backend=backend, precision=precision, tables=tables)[0]


def load_run(
    path: PathLike,
    *,
    backend: str | None = None,
    precision: Precision | None = None,
    tables: TableConfig = IN_MEMORY,
) -> tuple[DLRM, dict[str, Any]]:
    """The model kept at ``path`` and the progress that was kept with it; errors as ``load``."""
    how: dict[str, Any] = {"backend": backend, "initialise": False, "tables": tables}
    if _is_torch(path):
        found = read_torch_file(path)
        shapes = {name: array.shape for name, array in found.state.items()}
        model = DLRM(infer_config(shapes, path), precision=precision or "fp32", **how)
        model.load_state(found.state)
        return model, dict(found.progress)
    checkpoint = open_checkpoint(path)
    kept: Precision = "bf16" if checkpoint.state.split else "fp32"
    model = DLRM(_config_of(checkpoint), precision=precision or kept, **how)
    _fill(model, checkpoint)
    return model, dict(checkpoint.progress)


def restore(model: DLRM, path: PathLike) -> dict[str, Any]:
    """Overwrite ``model``'s parameters from ``path``; the progress that was kept with them.

    Raises CheckpointError naming the first parameter that does not fit; the model is unchanged
    then.
    """
    if _is_torch(path):
        found = read_torch_file(path)
        model.load_state(found.state)
        return dict(found.progress)
    if isinstance(model, ShardedDLRM):
        return restore_sharded(model, path)
    checkpoint = open_checkpoint(path)
    _fill(model, checkpoint)
    return dict(checkpoint.progress)


def restore_optimizer(optimizer: Optimizer, model: DLRM, path: PathLike) -> None:
    """Overwrite what ``optimizer`` remembers of ``model``'s parameters by what ``path`` keeps.

    Raises CheckpointError when another optimiser was kept there; nothing has changed then.
    """
    optimizer.prepare(model.parameters())
    if isinstance(model, ShardedDLRM):
        _restore_sharded_optimizer(optimizer, model, path)
        return
    own = optimizer.state_dict()
    if not own:
        return
    if _is_torch(path):
        kept = from_torch(read_torch_file(path).optimizer, list(model.stored()))
        optimizer.load_state(kept)
        return
    checkpoint = open_checkpoint(path, verify=False)
    _check_same_optimizer(optimizer, checkpoint)
    checkpoint.optimizer.read_into(own)
    optimizer.write_back(own)


def _restore_sharded_optimizer(optimizer: Optimizer, model: ShardedDLRM, path: PathLike) -> None:
    if not optimizer.config.has_state:
        return
    if _is_torch(path):
        raise CheckpointError(
            f"{path}: what an optimizer remembers is not dealt out to ranks from a .pt file; load "
            "it in one process and save a directory"
        )
    checkpoint = open_checkpoint(path, verify=False)
    _check_same_optimizer(optimizer, checkpoint)
    restore_sharded_optimizer(model, optimizer, checkpoint)


def _check_same_optimizer(optimizer: Optimizer, checkpoint: Checkpoint) -> None:
    own = optimizer.config.to_dict()
    kept = checkpoint.progress.get("optimizer") or UpdateConfig().to_dict()
    for part, config in own.items():
        if kept[part]["name"] != config["name"]:
            raise CheckpointError(
                f"{checkpoint.path}: its {part} were trained with {kept[part]['name']}, but now "
                f"{config['name']} is asked for; give the same optimizer"
            )


def infer_config(shapes: Mapping[str, tuple[int, ...]], path: PathLike) -> ModelConfig:
    """The architecture that has parameters of these names and shapes.

    A reference file does not say how features interact, but the width of the top MLP's input
    does, except that a sum of squares may coincide; ``dot`` is preferred then.

    Raises CheckpointError when no architecture fits.
    """
    try:
        return _config_by_width(shapes)
    except (ConfigError, KeyError, IndexError) as error:
        raise CheckpointError(f"{path}: its parameters are not those of a DLRM: {error}") from error


def _config_by_width(shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
    tables = [s for name, s in _numbered(shapes, "emb_l")]
    bottom = [s for name, s in _numbered(shapes, "bot_l")]
    top = [s for name, s in _numbered(shapes, "top_l")]
    dims = tuple(dim for _, dim in tables)
    wide = {shape[0] for name, shape in shapes.items() if name.endswith(".proj.weight")}
    kinds = (("dot", False), ("cat", False), ("dot", True))
    alone = len(tables) + bool(bottom) == 1  # has no pairs, but may meet itself
    for kind, itself in kinds[1:] if alone else kinds:
        config = ModelConfig(
            table_rows=tuple(rows for rows, _ in tables),
            embedding_dim=max(dims, default=0) if not wide else max(wide),
            table_dims=dims,
            mlp_bottom=(bottom[0][1], *(k for k, _ in bottom)) if bottom else (),
            mlp_top=tuple(k for k, _ in top),
            interaction=kind,  # type: ignore[arg-type]
            interaction_itself=itself,
            batch_norm=any(".norm." in name for name in shapes),
        )
        if config.interaction_width == top[0][1]:
            return config
    raise ConfigError(f"the top MLP takes {top[0][1]} inputs, which no interaction yields")


def _numbered(
    shapes: Mapping[str, tuple[int, ...]], prefix: str
) -> list[tuple[int, tuple[int, ...]]]:
    """(number, shape) of the weights called ``prefix.number.weight``, by number."""
    found = []
    for name, shape in shapes.items():
        parts = name.split(".")
        if len(parts) == 3 and parts[0] == prefix and parts[2] == "weight":
            found.append((int(parts[1]), shape))
    return sorted(found)


def _config_of(checkpoint: Checkpoint) -> ModelConfig:
    try:
        return ModelConfig.from_dict(checkpoint.model_config)
    except ConfigError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error


def _fill(model: DLRM, checkpoint: Checkpoint) -> None:
    """Read straight into the tables' memory, and the MLPs by way of small copies."""
    targets = model.stored()
    checkpoint.state.read_into(targets)
    model.load_mlps(targets)


def _is_torch(path: PathLike) -> bool:
    return Path(path).suffix == TORCH_SUFFIX
