"""Saves and loads models: as our checkpoint directory, or the reference program's ``.pt`` file."""

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
from dlrmjit.config.model import (
    IN_MEMORY,
    AnyModelConfig,
    ModelConfig,
    TableConfig,
    model_from_dict,
)
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.errors import CheckpointError, ConfigError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.model.model import Model
from dlrmjit.ops.backend import StoredArray
from dlrmjit.optim import Optimizer
from dlrmjit.parallel.checkpoint import restore_sharded, restore_sharded_optimizer, save_sharded
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.precision import Precision

TORCH_SUFFIX = ".pt"
PathLike = str | os.PathLike[str]


def save(
    model: Model,
    path: PathLike,
    *,
    progress: Mapping[str, Any] | None = None,
    optimizer: Optimizer | None = None,
) -> None:
    """Save ``model`` at ``path``: a directory, or for a name in ``.pt`` a file of the reference.

    A checkpoint that is already there is replaced only when the new one is complete.

    Parameters
    ----------
    model : the model; all ranks call this with their parts of a sharded one
    path : the directory or file
    progress : any JSON-ready mapping, such as positions and results, to be loaded with the model.
        In a ``.pt`` file its ``learning_rate`` is stored where PyTorch's optimiser expects it
    optimizer : saves its state too, for :func:`restore_optimizer`

    Raises
    ------
    CheckpointError
        If it cannot be written.
    """
    progress = dict(progress or {})
    if _is_torch(path):
        _check_is_dlrm(model, path)
        state = model.stored()
        if isinstance(model, ShardedModel) and model.comm.rank > 0:
            return
        rate = progress.pop("learning_rate", 0.0)
        nested = _torch_optimizer(optimizer, list(state), rate)
        write_torch_file(path, _with_reference_names(model, state), progress, nested)
    elif isinstance(model, ShardedModel):
        save_sharded(model, path, progress | _optimizer_progress(optimizer), optimizer)
    else:
        progress |= _optimizer_progress(optimizer)
        save_checkpoint(
            path,
            model.stored(),
            model_config=model.config.to_dict(),
            progress=progress,
            optimizer=optimizer.state_dict() if optimizer else None,
        )


def _check_is_dlrm(model: Model, path: PathLike) -> None:
    if not isinstance(model.config, ModelConfig):
        raise CheckpointError(
            f"{path}: the reference program's format has DLRMs only, but this is another model; "
            "save it as a directory, with a name that does not end in .pt"
        )


def _with_reference_names(
    model: Model, state: Mapping[str, StoredArray]
) -> Mapping[str, StoredArray]:
    """Rename tables as the reference does, which has other names for tables of several widths."""
    if not any(node.projections for node in model.architecture.embeddings):
        return state
    ending = re.compile(r"^(emb_l\.\d+)\.weight$")
    return {ending.sub(rf"\1{MIXED_NAME}", name): array for name, array in state.items()}


def _optimizer_progress(optimizer: Optimizer | None) -> dict[str, Any]:
    return {} if optimizer is None else {"optimizer": optimizer.config.to_dict()}


def _torch_optimizer(
    optimizer: Optimizer | None, parameters: list[str], rate: float
) -> dict[str, Any]:
    """Return ``opt_state_dict``, which the reference needs even if there is no state."""
    if optimizer is None:
        return sgd_state(len(parameters), rate)
    return to_torch(optimizer.config.mlps, parameters, optimizer.state_dict(), rate)


def load(
    path: PathLike,
    *,
    backend: str | None = None,
    precision: Precision | None = None,
    tables: TableConfig = IN_MEMORY,
) -> Model:
    """Return the model saved at ``path``.

    Parameters
    ----------
    path : a checkpoint directory, or a ``.pt`` file of the reference program
    backend : as for :class:`~dlrmjit.model.model.Model`
    precision : precision of the model, by default that of the checkpoint; a ``.pt`` file is
        ``fp32``. No bit of a parameter is lost either way
    tables : where to store the tables, and how to handle an index outside them

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or it is damaged.
    MemoryLimitError
        If the model does not fit into this machine.
    """
    return load_run(path, backend=backend, precision=precision, tables=tables)[0]


def load_run(
    path: PathLike,
    *,
    backend: str | None = None,
    precision: Precision | None = None,
    tables: TableConfig = IN_MEMORY,
) -> tuple[Model, dict[str, Any]]:
    """Return the model saved at ``path`` and its ``progress``; raises as :func:`load` does."""
    options: dict[str, Any] = {"backend": backend, "initialise": False, "tables": tables}
    model: Model
    if _is_torch(path):
        file = read_torch_file(path)
        shapes = {name: array.shape for name, array in file.state.items()}
        model = DLRM(infer_config(shapes, path), precision=precision or "fp32", **options)
        model.load_state(file.state)
        return model, dict(file.progress)
    checkpoint = open_checkpoint(path)
    saved: Precision = "bf16" if checkpoint.state.split else "fp32"
    model = model_of(_config_of(checkpoint), precision=precision or saved, **options)
    _fill(model, checkpoint)
    return model, dict(checkpoint.progress)


def restore(model: Model, path: PathLike) -> dict[str, Any]:
    """Overwrite ``model``'s parameters from ``path``; return the ``progress`` saved with them.

    Raises CheckpointError naming the first parameter that does not match; then the model is
    unchanged.
    """
    if _is_torch(path):
        file = read_torch_file(path)
        model.load_state(file.state)
        return dict(file.progress)
    if isinstance(model, ShardedModel):
        return restore_sharded(model, path)
    checkpoint = open_checkpoint(path)
    _fill(model, checkpoint)
    return dict(checkpoint.progress)


def restore_optimizer(optimizer: Optimizer, model: Model, path: PathLike) -> None:
    """Overwrite the state of ``optimizer`` for ``model``'s parameters from ``path``.

    Raises CheckpointError if the state there is that of another optimiser; then nothing is
    changed.
    """
    optimizer.prepare(model.parameters())
    if isinstance(model, ShardedModel):
        _restore_sharded_optimizer(optimizer, model, path)
        return
    arrays = optimizer.state_dict()
    if not arrays:
        return
    if _is_torch(path):
        saved = from_torch(read_torch_file(path).optimizer, list(model.stored()))
        optimizer.load_state(saved)
        return
    checkpoint = open_checkpoint(path, verify=False)
    _check_same_optimizer(optimizer, checkpoint)
    checkpoint.optimizer.read_into(arrays)
    optimizer.write_back(arrays)


def _restore_sharded_optimizer(optimizer: Optimizer, model: ShardedModel, path: PathLike) -> None:
    if not optimizer.config.has_state:
        return
    if _is_torch(path):
        raise CheckpointError(
            f"{path}: the optimizer state of a .pt file cannot be distributed to ranks; load it in "
            "one process and save a directory"
        )
    checkpoint = open_checkpoint(path, verify=False)
    _check_same_optimizer(optimizer, checkpoint)
    restore_sharded_optimizer(model, optimizer, checkpoint)


def _check_same_optimizer(optimizer: Optimizer, checkpoint: Checkpoint) -> None:
    saved = checkpoint.progress.get("optimizer") or UpdateConfig().to_dict()
    for part, config in optimizer.config.to_dict().items():
        if saved[part]["name"] != config["name"]:
            raise CheckpointError(
                f"{checkpoint.path}: its {part} were trained with {saved[part]['name']}, but now "
                f"{config['name']} is given; use the same optimizer"
            )


def infer_config(shapes: Mapping[str, tuple[int, ...]], path: PathLike) -> ModelConfig:
    """Return the architecture that has parameters of these names and shapes.

    A file of the reference program does not say how features interact; the width of the top MLP's
    input does. If two interactions have that width, ``dot`` is chosen.

    Raises CheckpointError if no architecture matches; ``path`` is for its message.
    """
    try:
        return _config_by_width(shapes)
    except (ConfigError, KeyError, IndexError) as error:
        raise CheckpointError(f"{path}: its parameters are not those of a DLRM: {error}") from error


def _config_by_width(shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
    tables = [s for _, s in _indexed_weights(shapes, "emb_l")]
    bottom = [s for _, s in _indexed_weights(shapes, "bot_l")]
    top = [s for _, s in _indexed_weights(shapes, "top_l")]
    dims = tuple(dim for _, dim in tables)
    projected = {shape[0] for name, shape in shapes.items() if name.endswith(".proj.weight")}
    kinds = (("dot", False), ("cat", False), ("dot", True))
    is_single = len(tables) + bool(bottom) == 1  # no pairs: dot only with itself
    for kind, itself in kinds[1:] if is_single else kinds:
        config = ModelConfig(
            table_rows=tuple(rows for rows, _ in tables),
            embedding_dim=max(dims, default=0) if not projected else max(projected),
            table_dims=dims,
            mlp_bottom=(bottom[0][1], *(k for k, _ in bottom)) if bottom else (),
            mlp_top=tuple(k for k, _ in top),
            interaction=kind,  # type: ignore[arg-type]
            interaction_itself=itself,
            batch_norm=any(".norm." in name for name in shapes),
        )
        if config.interaction_width == top[0][1]:
            return config
    raise ConfigError(f"the top MLP takes {top[0][1]} inputs, which no interaction has as outputs")


def _indexed_weights(
    shapes: Mapping[str, tuple[int, ...]], prefix: str
) -> list[tuple[int, tuple[int, ...]]]:
    """Return (index, shape) of the weights called ``prefix.index.weight``, by index."""
    weights = []
    for name, shape in shapes.items():
        parts = name.split(".")
        if len(parts) == 3 and parts[0] == prefix and parts[2] == "weight":
            weights.append((int(parts[1]), shape))
    return sorted(weights)


def model_of(config: AnyModelConfig, **options: Any) -> Model:
    """Return the model of a configuration: of a ModelConfig, a DLRM."""
    return DLRM(config, **options) if isinstance(config, ModelConfig) else Model(config, **options)


def _config_of(checkpoint: Checkpoint) -> AnyModelConfig:
    try:
        return model_from_dict(checkpoint.model_config)
    except ConfigError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error


def _fill(model: Model, checkpoint: Checkpoint) -> None:
    """Read tables straight into their memory, and MLPs through small copies."""
    targets = model.stored()
    checkpoint.state.read_into(targets)
    model.load_dense(targets)


def _is_torch(path: PathLike) -> bool:
    return Path(path).suffix == TORCH_SUFFIX
