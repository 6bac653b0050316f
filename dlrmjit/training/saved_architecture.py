"""The architecture of a saved model: what a checkpoint says, or what a ``.pt`` file's shapes allow.

A file of the reference program does not say how features interact; the width of the top MLP's
input does, unless two interactions have that width.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dlrmjit.checkpoint import TorchCheckpoint, open_checkpoint, read_torch_file
from dlrmjit.config.model import AnyModelConfig, Interaction, ModelConfig
from dlrmjit.errors import CheckpointError, ConfigError
from dlrmjit.parallel.checkpoint import config_of, described

TORCH_SUFFIX = ".pt"
PathLike = str | os.PathLike[str]
Shapes = Mapping[str, tuple[int, ...]]

_KINDS: tuple[tuple[Interaction, bool], ...] = (("dot", False), ("cat", False), ("dot", True))


def is_torch(path: PathLike) -> bool:
    """Return whether ``path`` has the name of a ``.pt`` file."""
    return Path(path).suffix == TORCH_SUFFIX


def architectures(path: PathLike) -> list[AnyModelConfig]:
    """Return the architectures that the model saved at ``path`` may have.

    A directory has one. A ``.pt`` file has several where two interactions take equally many inputs.

    Raises CheckpointError if there is no checkpoint, or it is of no model.
    """
    if is_torch(path):
        return possible_configs(read_torch_file(path), path)
    return [config_of(open_checkpoint(path, verify=False))]


def possible_configs(file: TorchCheckpoint, path: PathLike) -> list[AnyModelConfig]:
    """Return the architectures that a ``.pt`` file may have; ``path`` is for messages.

    A file that this package wrote has one.
    """
    if file.model_config is not None:
        return [described(file.model_config, path)]
    found = configs_of_shapes({name: array.shape for name, array in file.state.items()}, path)
    if file.is_torchrec:
        found = [config for config in found if config.interaction == "dot"] or found
    return list(found)


def configs_of_shapes(shapes: Shapes, path: PathLike) -> list[ModelConfig]:
    """Return all architectures with parameters of these shapes, ``dot`` first.

    Parameters that are none of a DLRM do not count: compare the names with those of the model.

    Raises CheckpointError if there is none; ``path`` is for its message.
    """
    try:
        return _configs_by_width(shapes)
    except (ConfigError, KeyError, IndexError, ValueError) as error:
        raise CheckpointError(f"{path}: its parameters are not those of a DLRM: {error}") from error


def matching(
    configs: list[AnyModelConfig],
    path: PathLike,
    interaction: Interaction | None = None,
    interaction_itself: bool | None = None,
) -> list[AnyModelConfig]:
    """Return those of ``configs`` that have the given interaction, None standing for any.

    Raises CheckpointError if none has it.
    """
    if interaction is None and interaction_itself is None:
        return configs
    found: list[AnyModelConfig] = [
        config
        for config in configs
        if isinstance(config, ModelConfig)
        and interaction in (None, config.interaction)
        and interaction_itself in (None, config.interaction_itself)
    ]
    if found:
        return found
    asked = f"{interaction or 'dot'}{' with itself' * bool(interaction_itself)}"
    raise CheckpointError(
        f"{path}: the interaction {asked} is asked for, but the model has "
        f"{' or '.join(map(shown, configs))}"
    )


def ambiguity(configs: list[AnyModelConfig], path: PathLike) -> str:
    """Return the sentence that refuses to compute with a model of several interactions."""
    kinds = " and ".join(map(shown, configs))
    return (
        f"{path}: the file does not say how features interact, and {kinds} "
        "both give the top MLP as many inputs as it has; load it with "
        "interaction='dot' or interaction='cat', or give the command --arch-interaction-op"
    )


def shown(config: AnyModelConfig) -> str:
    """Return the interaction of a model in words."""
    if not isinstance(config, ModelConfig):
        return "an architecture of its own"
    return f"{config.interaction}{' with itself' * config.interaction_itself}"


def _configs_by_width(shapes: Shapes) -> list[ModelConfig]:
    tables = [s for _, s in _indexed_weights(shapes, "emb_l")]
    bottom = [s for _, s in _indexed_weights(shapes, "bot_l")]
    top = [s for _, s in _indexed_weights(shapes, "top_l")]
    dims = tuple(dim for _, dim in tables)
    projected = {shape[0] for name, shape in shapes.items() if name.endswith(".proj.weight")}
    is_single = len(tables) + bool(bottom) == 1  # no pairs: dot only with itself
    configs = [
        ModelConfig(
            table_rows=tuple(rows for rows, _ in tables),
            embedding_dim=max(dims, default=0) if not projected else max(projected),
            table_dims=dims,
            mlp_bottom=(bottom[0][1], *(k for k, _ in bottom)) if bottom else (),
            mlp_top=tuple(k for k, _ in top),
            interaction=kind,
            interaction_itself=itself,
            batch_norm=any(".norm." in name for name in shapes),
        )
        for kind, itself in (_KINDS[1:] if is_single else _KINDS)
    ]
    found = [config for config in configs if config.interaction_width == top[0][1]]
    if not found:
        raise ConfigError(
            f"the top MLP takes {top[0][1]} inputs, which no interaction has as outputs"
        )
    return found


def _indexed_weights(shapes: Shapes, prefix: str) -> list[tuple[int, tuple[int, ...]]]:
    """Return (index, shape) of the weights called ``prefix.index.weight``, by index.

    Raises CheckpointError for a name without an index, or a weight that is no matrix.
    """
    weights = []
    for name, shape in shapes.items():
        parts = name.split(".")
        if len(parts) == 3 and parts[0] == prefix and parts[2] == "weight":
            if not (parts[1].isascii() and parts[1].isdigit()) or len(shape) != 2:
                raise ConfigError(f"{name} with shape {shape} is no table or layer")
            weights.append((int(parts[1]), shape))
    return sorted(weights)
