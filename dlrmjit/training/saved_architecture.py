"""The architecture of a saved model: what a checkpoint says, or what a ``.pt`` file's shapes allow.

A file of the reference program does not say how features interact; the width of the top MLP's
input does, unless two interactions have that width. Nor does it say how quotients and remainders
are combined, nor how many values a table of quotients is for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dlrmjit.architecture.nodes.embedding import Operation
from dlrmjit.checkpoint import TorchCheckpoint, open_checkpoint, read_torch_file
from dlrmjit.checkpoint.torch_format.names import is_row_weight
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
    if len(operations(configs)) > 1:
        return (
            f"{path}: the file does not say how its quotients and remainders are combined, nor how "
            "many values its columns have; load it with dlrmjit train --load-model, "
            "--qr-flag and the options it was trained with, which can save it as a directory"
        )
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


def operations(configs: list[AnyModelConfig]) -> set[str]:
    """Return how the quotients and remainders of these models are combined."""
    return {config.qr_operation for config in configs if isinstance(config, ModelConfig)}


def _configs_by_width(shapes: Shapes) -> list[ModelConfig]:
    tables, combined = _tables(shapes)
    bottom = [s for _, s in _indexed_weights(shapes, "bot_l")]
    top = [s for _, s in _indexed_weights(shapes, "top_l")]
    dims = tuple(dim for _, dim in tables)
    projected = {shape[0] for name, shape in shapes.items() if name.endswith(".proj.weight")}
    is_single = len(tables) + bool(bottom) == 1  # no pairs: dot only with itself
    configs = [
        ModelConfig(
            table_rows=tuple(rows for rows, _ in tables),
            embedding_dim=_embedding_dim(dims, projected, combined),
            table_dims=() if any(combined) else dims,
            mlp_bottom=(bottom[0][1], *(k for k, _ in bottom)) if bottom else (),
            mlp_top=tuple(k for k, _ in top),
            interaction=kind,
            interaction_itself=itself,
            batch_norm=any(".norm." in name for name in shapes),
            qr_collisions=combined,
            qr_operation=operation,
            learned_pooling=any(is_row_weight(name) for name in shapes),
        )
        for kind, itself in (_KINDS[1:] if is_single else _KINDS)
        for operation in _operations(combined, dims, bottom)
    ]
    found = [config for config in configs if config.interaction_width == top[0][1]]
    if not found:
        raise ConfigError(
            f"the top MLP takes {top[0][1]} inputs, which no interaction has as outputs"
        )
    return found


def _tables(shapes: Shapes) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    """Return (rows, width) of the table of every column, and its collisions or 0.

    Rows are the most that the quotients are enough for.
    """
    whole = dict(_indexed_weights(shapes, "emb_l"))
    quotients = dict(_indexed_weights(shapes, "emb_l", "weight_q"))
    remainders = dict(_indexed_weights(shapes, "emb_l", "weight_r"))
    if set(quotients) != set(remainders) or set(quotients) & set(whole):
        raise ConfigError("tables of quotients need one of remainders each, and no other")
    found: dict[int, tuple[tuple[int, ...], int]] = {s: (shape, 0) for s, shape in whole.items()}
    for s, (rows, width) in quotients.items():
        count = remainders[s][0]
        found[s] = ((rows * count, width), count)
    tables = [found[s] for s in sorted(found)]
    return [shape for shape, _ in tables], tuple(count for _, count in tables)


def _embedding_dim(dims: tuple[int, ...], projected: set[int], combined: tuple[int, ...]) -> int:
    """Return the width E; of concatenated vectors, that of one of them."""
    if any(combined):
        return min(dim for dim, count in zip(dims, combined, strict=True) if count)
    return max(projected or dims, default=0)


def _operations(
    combined: tuple[int, ...], dims: tuple[int, ...], bottom: list[tuple[int, ...]]
) -> tuple[Operation, ...]:
    """Return how quotients and remainders may be combined, given the layers (K, C) of ``bottom``.

    Without a bottom MLP any operation may be meant.
    """
    if not any(combined):
        return ("mult",)
    width = bottom[-1][0] if bottom else 0
    if width == 2 * _embedding_dim(dims, set(), combined):
        return ("concat",)
    return ("mult", "add") if bottom else ("mult", "add", "concat")


def _indexed_weights(
    shapes: Shapes, prefix: str, ending: str = "weight"
) -> list[tuple[int, tuple[int, ...]]]:
    """Return (index, shape) of the weights called ``prefix.index.<ending>``, by index.

    Raises CheckpointError for a name without an index, or a weight that is no matrix.
    """
    weights = []
    for name, shape in shapes.items():
        parts = name.split(".")
        if len(parts) == 3 and parts[0] == prefix and parts[2] == ending:
            if not (parts[1].isascii() and parts[1].isdigit()) or len(shape) != 2:
                raise ConfigError(f"{name} with shape {shape} is no table or layer")
            weights.append((int(parts[1]), shape))
    return sorted(weights)
