"""A saved model and its architecture, with what the options say where a file leaves it open."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrmjit.cli.options.parse import Options
from dlrmjit.errors import CheckpointError

if TYPE_CHECKING:
    from dlrmjit.architecture import Architecture
    from dlrmjit.config.model import AnyModelConfig
    from dlrmjit.model.model import Model

_FIELDS = {
    "arch_sparse_feature_size": "embedding_dim",
    "arch_embedding_size": "table_rows",
    "arch_mlp_bot": "mlp_bottom",
    "arch_mlp_top": "mlp_top",
    "arch_interaction_op": "interaction",
    "arch_interaction_itself": "interaction_itself",
    "batch_norm": "batch_norm",
    "layer_norm": "layer_norm",
    "mlp_bot_activation": "bottom_activation",
    "mlp_top_activation": "top_activation",
    "wide": "wide",
    "table_dims": "table_dims",
    "weighted_pooling": "learned_pooling",
    "pooling": "pooling",
}
"""The configuration of a model by the options that describe it."""


def load_saved(path: Path, arguments: Any, **how: Any) -> Model:
    """Return the model at ``path`` for a command that has the flags of the interaction.

    Prints a note about what is assumed. ``how`` are arguments of ``dlrmjit.load``.
    """
    from dlrmjit.config.model import ModelConfig
    from dlrmjit.training.persistence import load
    from dlrmjit.training.saved_architecture import is_torch

    op, itself = arguments.arch_interaction_op, arguments.arch_interaction_itself or None
    if is_torch(path):
        config = saved_config(path, op, itself)
        if isinstance(config, ModelConfig):
            op, itself = config.interaction, config.interaction_itself
    return load(path, interaction=op, interaction_itself=itself, **how)


def saved_config(
    path: str | Path, interaction: Any, itself: bool | None, operation: str | None = None
) -> AnyModelConfig:
    """Return the architecture of the model at ``path``.

    Where a ``.pt`` file allows several, the first with the interaction that is asked for, None for
    any; a note on the standard error says which and how to choose. ``operation`` is that of
    quotients and remainders.

    Raises CheckpointError if there is none, or the operation is left open.
    """
    from dlrmjit.training.saved_architecture import (
        ambiguity,
        architectures,
        matching,
        operations,
        shown,
    )

    configs = architectures(path)
    found = matching(configs, path, interaction, itself)
    if len(operations(found)) > 1:
        if operation is None:
            raise CheckpointError(ambiguity(found, path))
        found = [config for config in found if operation in operations([config])] or found
    if len(found) > 1:
        print(
            f"dlrmjit: note: {path} does not say how features interact, and its shapes allow "
            f"{' and '.join(map(shown, configs))}: {shown(found[0])} is assumed; choose with "
            "--arch-interaction-op and --arch-interaction-itself",
            file=sys.stderr,
        )
    return found[0]


def with_saved_architecture(options: Options, path: str) -> Options:
    """Return the options with the architecture of the model at ``path``.

    Raises CheckpointError for an option that was given and contradicts it; a preset named by
    ``--config`` counts as given.
    """
    from dlrmjit.config.model import ModelConfig
    from dlrmjit.training.saved_architecture import is_torch

    is_preset = "config" in options.given and options.model == "dlrm"
    given = options.given & set(_FIELDS)
    if is_preset:
        given |= set(_FIELDS) - {"weighted_pooling", "pooling"}
    has_op = "arch_interaction_op" in given
    itself = options.arch_interaction_itself if "arch_interaction_itself" in given else None
    operation = options.qr_operation if options.qr_flag else None
    config = saved_config(path, options.arch_interaction_op if has_op else None, itself, operation)
    if not isinstance(config, ModelConfig):
        return _with_nodes(options, config, path)
    taken = copy.copy(options)
    if "model" not in options.given:
        taken.model = "dlrm"
    for option, field in _FIELDS.items():
        saved = getattr(config, field)
        if option not in given:
            setattr(taken, option, _as_option(option, saved))
        elif not _agrees(options, option, saved):
            raise CheckpointError(_contradiction(options, option, saved, path))
    if options.md_flag:
        taken.table_dims = ()
    if not options.qr_flag:
        taken.saved_collisions, taken.qr_operation = config.qr_collisions, config.qr_operation
    if "dropout" not in options.given and not is_torch(path):
        taken.dropout = config.dropout
    return taken


def _with_nodes(options: Options, config: Architecture, path: str) -> Options:
    """Return options of a model that is no DLRM: its nodes, or the family that was given again.

    With ``--model`` the architecture follows from the options, and is compared when it is loaded.
    """
    if options.model != "dlrm" or "model" in options.given or options.has_parts:
        return options
    given = sorted(options.given & (set(_FIELDS) | {"config"}))
    if given:
        raise CheckpointError(
            f"{path} holds another model than a DLRM, of which --{given[0].replace('_', '-')} "
            "does not say enough; leave it out, or give the --model that was trained"
        )
    taken = copy.copy(options)
    taken.saved_nodes = config
    taken.arch_embedding_size = config.table_rows
    taken.arch_mlp_bot = (config.dense_features,) if config.dense_features else ()
    return taken


def _as_option(option: str, saved: Any) -> Any:
    """Return the value of an option for the saved value of the model."""
    return ("learned" if saved else None) if option == "weighted_pooling" else saved


def _agrees(options: Options, option: str, saved: Any) -> bool:
    """Return whether a given option may describe the saved model; data may decide the rest."""
    value, is_dataset = getattr(options, option), options.data_generation == "dataset"
    if option == "weighted_pooling":
        return bool((value == "learned") == saved)
    if option == "arch_embedding_size" and (is_dataset or options.qr_flag):
        return True  # the data have the rows, which are compared when the model is loaded
    if option == "table_dims":
        return options.md_flag or tuple(value) in (tuple(saved), ()) or _all_wide(options, saved)
    if option == "arch_mlp_bot" and is_dataset:
        return tuple(value[1:]) == tuple(saved[1:])
    return bool(value == saved)


def _all_wide(options: Options, saved: tuple[int, ...]) -> bool:
    return not saved and set(options.table_dims) == {options.arch_sparse_feature_size}


def _contradiction(options: Options, option: str, saved: Any, path: str) -> str:
    flag = f"--{option.replace('_', '-')}"
    value = getattr(options, option)
    asked = flag if value is True else f"{flag}={_text(value)}"
    if "config" in options.given and option not in options.given:
        asked = f"--config={options.config} ({asked})"
    return (
        f"{asked} contradicts the model in {path}, which has {_text(saved)}; leave the option "
        "out, or name another checkpoint"
    )


def _text(value: Any) -> str:
    return ("-".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)
