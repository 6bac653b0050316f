"""Saves and loads models: as our checkpoint directory, or the reference program's ``.pt`` file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dlrmjit.checkpoint import (
    Checkpoint,
    TorchCheckpoint,
    check_config,
    check_parameters,
    copy_checkpoint,
    open_checkpoint,
    read_torch_file,
    write_checkpoint,
    write_torch_file,
)
from dlrmjit.checkpoint.preprocessing_files import read_preprocessing
from dlrmjit.checkpoint.torch_format.names import is_row_weight, reference_names
from dlrmjit.checkpoint.torch_format.optimizer import from_torch, to_torch
from dlrmjit.checkpoint.torch_format.writer import sgd_state
from dlrmjit.config.model import (
    IN_MEMORY,
    AnyModelConfig,
    Interaction,
    ModelConfig,
    TableConfig,
)
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.errors import CheckpointError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.model.model import Model
from dlrmjit.ops.backend import StoredArray
from dlrmjit.optim import Optimizer
from dlrmjit.parallel.checkpoint import (
    config_of,
    restore_sharded,
    restore_sharded_optimizer,
    save_sharded,
)
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.precision import Precision
from dlrmjit.training.background_save import Snapshot
from dlrmjit.training.saved_architecture import (
    PathLike,
    ambiguity,
    is_torch,
    matching,
    possible_configs,
)


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
        In a ``.pt`` file its ``learning_rate`` is stored where PyTorch's optimizer expects it
    optimizer : saves its state too, for :func:`restore_optimizer`

    Raises
    ------
    CheckpointError
        If it cannot be written.
    """
    begin_save(model, path, progress=progress, optimizer=optimizer)()


def begin_save(
    model: Model,
    path: PathLike,
    *,
    progress: Mapping[str, Any] | None = None,
    optimizer: Optimizer | None = None,
    snapshot: Snapshot | None = None,
) -> Callable[[], None]:
    """Save as :func:`save`, but let the caller choose when to wait for the disk.

    The model may change when this returns. The result, which any thread may call, returns when the
    checkpoint is durable and in its place. With a ``snapshot`` it writes the files too. Sharded
    models and ``.pt`` files are saved at once.
    """
    with model.access.reading():
        return _begin_save(model, path, dict(progress or {}), optimizer, snapshot)


def _begin_save(
    model: Model,
    path: PathLike,
    progress: dict[str, Any],
    optimizer: Optimizer | None,
    snapshot: Snapshot | None,
) -> Callable[[], None]:
    if model.undecided:
        raise CheckpointError(model.undecided)
    if is_torch(path):
        check_torch_export(model.config, path)
        state = model.stored()
        if isinstance(model, ShardedModel) and model.comm.rank > 0:
            return _nothing
        rate = progress.pop("learning_rate", 0.0)
        nested = _torch_optimizer(optimizer, list(state), rate)
        is_mixed = any(node.projections for node in model.architecture.embeddings)
        named, config = reference_names(state, is_mixed), model.config.to_dict()
        write_torch_file(path, named, progress, nested, model_config=config)
    elif isinstance(model, ShardedModel):
        save_sharded(model, path, progress | _optimizer_progress(optimizer), optimizer)
    else:
        progress |= _optimizer_progress(optimizer)
        state = model.stored()
        extra: dict[str, StoredArray] = dict(optimizer.stored()) if optimizer else {}
        facts: dict[str, Any] = {
            "model_config": model.config.to_dict(),
            "progress": progress,
            "optimizer": extra,
            "preprocessing": model.preprocessing,
        }
        if snapshot is not None and snapshot.fits({**state, **extra}):
            return copy_checkpoint(path, state, memory=snapshot.memory, **facts)
        return write_checkpoint(path, state, **facts).close
    return _nothing


def _nothing() -> None:
    """Do nothing: all has been done."""


def check_torch_export(config: AnyModelConfig, path: PathLike) -> None:
    """Raise CheckpointError for a model that the reference program's format cannot have."""
    if not isinstance(config, ModelConfig):
        raise CheckpointError(
            f"{path}: the reference program's format has DLRMs only, but this is another model; "
            "save it as a directory, with a name that does not end in .pt"
        )
    unknown = config.unknown_to_reference
    if unknown:
        shown = ", ".join(f"{name} {getattr(config, name)}" for name in unknown)
        raise CheckpointError(
            f"{path}: the reference program's models cannot have {shown}; save the model as a "
            "directory, with a name that does not end in .pt"
        )


def _optimizer_progress(optimizer: Optimizer | None) -> dict[str, Any]:
    return {} if optimizer is None else {"optimizer": optimizer.config.to_dict()}


def _torch_optimizer(
    optimizer: Optimizer | None, parameters: list[str], rate: float
) -> dict[str, Any]:
    """Return ``opt_state_dict``, which the reference needs even if there is no state."""
    if optimizer is None:
        return sgd_state(len(parameters), rate)
    return to_torch(optimizer.config.mlps, parameters, optimizer.stored(), rate)


def load(
    path: PathLike,
    *,
    backend: str | None = None,
    precision: Precision | None = None,
    tables: TableConfig = IN_MEMORY,
    interaction: Interaction | None = None,
    interaction_itself: bool | None = None,
) -> Model:
    """Return the model saved at ``path``.

    A ``.pt`` file in which the top MLP has as many inputs as two interactions have outputs does not
    say how features interact. Without ``interaction``, its parameters can be read from the model,
    but predicting, training and saving raise CheckpointError.

    Parameters
    ----------
    path : a checkpoint directory, or a ``.pt`` file of the reference program
    backend : as for :class:`~dlrmjit.model.model.Model`
    precision : precision of the model, by default that of the checkpoint; a ``.pt`` file is
        ``fp32``. No bit of a parameter is lost either way
    tables : where to store the tables, and how to handle an index outside them
    interaction, interaction_itself : how features interact, as in
        :class:`~dlrmjit.config.model.ModelConfig`, where the file does not say it

    Raises
    ------
    CheckpointError
        If there is no checkpoint, it is damaged, or its parameters are not exactly those of its
        model.
    MemoryLimitError
        If the model does not fit into this machine.
    """
    return load_run(
        path,
        backend=backend,
        precision=precision,
        tables=tables,
        interaction=interaction,
        interaction_itself=interaction_itself,
    )[0]


def load_run(
    path: PathLike,
    *,
    backend: str | None = None,
    precision: Precision | None = None,
    tables: TableConfig = IN_MEMORY,
    interaction: Interaction | None = None,
    interaction_itself: bool | None = None,
) -> tuple[Model, dict[str, Any]]:
    """Return the model saved at ``path`` and its ``progress``; raises as :func:`load` does."""
    options: dict[str, Any] = {"backend": backend, "initialise": False, "tables": tables}
    if is_torch(path):
        file = read_torch_file(path)
        found = matching(possible_configs(file, path), path, interaction, interaction_itself)
        model = model_of(found[0], precision=precision or "fp32", **options)
        check_parameters(path, _shapes(file.state), _shapes(model.stored()))
        model.load_state(file.state)
        if len(found) > 1:
            model.undecided = ambiguity(found, path)
        return model, dict(file.progress)
    checkpoint = open_checkpoint(path)
    [config] = matching([config_of(checkpoint)], path, interaction, interaction_itself)
    saved: Precision = "bf16" if checkpoint.state.split else "fp32"
    model = model_of(config, precision=precision or saved, **options)
    _fill(model, checkpoint)
    model.preprocessing = read_preprocessing(checkpoint)
    return model, dict(checkpoint.progress)


def progress_of(path: PathLike) -> dict[str, Any]:
    """Return the ``progress`` saved at ``path``, without reading an array.

    Raises CheckpointError if there is no checkpoint.
    """
    if is_torch(path):
        return dict(read_torch_file(path).progress)
    return dict(open_checkpoint(path, verify=False).progress)


def restore(model: Model, path: PathLike) -> dict[str, Any]:
    """Overwrite ``model``'s parameters from ``path``; return the ``progress`` saved with them.

    Raises CheckpointError naming what differs: a parameter that is missing, unexpected or has
    another shape, or a key of the configuration. Then the model is unchanged.
    """
    if is_torch(path):
        file = read_torch_file(path)
        check_parameters(path, _shapes(file.state), _shapes(model.stored()))
        _check_interaction(model, file, path)
        model.load_state(file.state)
        return dict(file.progress)
    if isinstance(model, ShardedModel):
        return restore_sharded(model, path)
    checkpoint = open_checkpoint(path)
    checkpoint.state.check(model.shapes_for(checkpoint.state.shapes), strict=True)
    check_config(path, config_of(checkpoint).to_dict(), model.config.to_dict())
    _fill(model, checkpoint)
    model.preprocessing = read_preprocessing(checkpoint)
    return dict(checkpoint.progress)


def restore_optimizer(optimizer: Optimizer, model: Model, path: PathLike) -> None:
    """Overwrite the state of ``optimizer`` for ``model``'s parameters from ``path``.

    Raises CheckpointError if the state there is that of another optimizer; then nothing is
    changed.
    """
    optimizer.prepare(model.parameters())
    if isinstance(model, ShardedModel):
        _restore_sharded_optimizer(optimizer, model, path)
        return
    arrays = optimizer.stored()
    if not arrays:
        return
    if is_torch(path):
        saved = from_torch(read_torch_file(path).optimizer, list(model.stored()))
        optimizer.load_state(_as_columns(saved, arrays))
        return
    checkpoint = open_checkpoint(path, verify=False)
    _check_same_optimizer(optimizer, checkpoint)
    checkpoint.optimizer.check(_shapes(arrays), strict=True)
    checkpoint.optimizer.read_into(arrays)
    optimizer.write_back(arrays)


def _as_columns(
    saved: Mapping[str, StoredArray], wanted: Mapping[str, StoredArray]
) -> dict[str, Any]:
    """Return states of PyTorch with those of weights of pooling, vectors there, as columns."""
    return {
        name: np.reshape(array, wanted[name].shape)
        if is_row_weight(name.rsplit(".", 1)[0]) and wanted[name].size == np.size(array)
        else array
        for name, array in saved.items()
        if name in wanted or not is_row_weight(name.rsplit(".", 1)[0])
    }


def _restore_sharded_optimizer(optimizer: Optimizer, model: ShardedModel, path: PathLike) -> None:
    if not optimizer.config.has_state:
        return
    if is_torch(path):
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


def model_of(config: AnyModelConfig, **options: Any) -> Model:
    """Return the model of a configuration: of a ModelConfig, a DLRM."""
    return DLRM(config, **options) if isinstance(config, ModelConfig) else Model(config, **options)


def _shapes(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in arrays.items()}


def _check_interaction(model: Model, file: TorchCheckpoint, path: PathLike) -> None:
    """Refuse a file of another model, or whose only possible interaction is another one."""
    configs, config = possible_configs(file, path), model.config
    if file.model_config is not None:
        check_config(path, configs[0].to_dict(), config.to_dict())
    elif isinstance(config, ModelConfig):
        matching(configs, path, config.interaction, config.interaction_itself)


def _fill(model: Model, checkpoint: Checkpoint) -> None:
    """Read tables straight into their memory, and MLPs through small copies."""
    shapes, dynamic = model.shapes_for(checkpoint.state.shapes), model.store.dynamic
    checkpoint.state.check(shapes, strict=True)
    if dynamic is not None:
        dynamic.make_room(shapes)
    targets = model.stored()
    checkpoint.state.read_into(targets)
    model.load_dense(targets)
    if dynamic is not None:
        dynamic.load(targets)
