"""Defaults of ``dlrmjit train SET``: what was not given follows from the size of the set.

A reference's command line never comes here; its defaults are the reference's.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from dlrmjit.architecture.families import family_values
from dlrmjit.cli.options.command_line import option_hint
from dlrmjit.cli.options.parse import TRAIN, Options
from dlrmjit.config.recipe import PATIENCE, Recipe, recipe
from dlrmjit.data.prepared.manifest import Manifest
from dlrmjit.data.prepared.reader import is_prepared_set
from dlrmjit.data.stored.npy import map_array
from dlrmjit.errors import ConfigError

HELD_OUT = 10
"""One in so many training rows chooses the parameters of a set without validation rows."""
_SCHEDULE = ("lr_num_warmup_steps", "lr_decay_start_step", "lr_num_decay_steps")


def with_set_defaults(options: Options) -> Options:
    """Return the options of a run on ``SET``, those that were not given derived from it.

    With ``--config`` the preset decides how the model is trained. Raises ConfigError for a path
    that is no prepared set, DataError for a damaged one.
    """
    if not options.set:
        return options
    manifest = _manifest_of(options.set)
    rows = training_rows(manifest)
    if not rows:
        raise ConfigError(f"{options.set} has no rows to train on")
    derived = copy.copy(options)
    lists = _count_lists(options.set, manifest)
    asked = recipe(
        rows,
        batch_size=_given(options, "mini_batch_size"),
        epochs=_given(options, "nepochs"),
        optimizer=_given(options, "optimizer"),
        lists=lists * rows // manifest.splits["train"],
        family=options.model if "model" in options.given else None,
        is_summed=options.pooling == "sum",
        has_plain_tables=not (
            options.qr_flag or options.md_flag or options.table_dims or _is_learned(options)
        ),
    )
    values = _tests(asked, options, rows // lists if lists else 1)
    if options.base is None:
        values |= _training(asked, manifest, options) | _architecture(asked, manifest, options)
    for name, value in values.items():
        if name not in options.given:
            setattr(derived, name, value)
    return derived


def _count_lists(path: str, manifest: Manifest) -> int:
    """Return the number of lists of training rows; 0 if rows are in no lists."""
    name = "train/lists.npy"
    return len(map_array(Path(path) / name)) - 1 if name in manifest.files else 0


def training_rows(manifest: Manifest) -> int:
    """Return how many rows of a set are trained on: those held out for validation are not."""
    train = manifest.splits["train"]
    return train if manifest.splits.get("validation") else train - train // HELD_OUT


def _manifest_of(path: str) -> Manifest:
    if is_prepared_set(path):
        return Manifest.read(Path(path))
    if not Path(path).exists():
        hint = option_hint(TRAIN, path)
        raise ConfigError(
            f"{path!r} is no option, nor is there a prepared set of this name; {hint}"
        )
    raise ConfigError(
        f"{path} is no prepared set; make one of text or Parquet: dlrmjit prepare {path} --out SET "
        "(columns other than Criteo's need --schema), then: dlrmjit train SET"
    )


def _given(options: Options, name: str) -> Any:
    """Return the value of an option that was given, or that a preset decides; None otherwise."""
    is_decided = name in options.given or (options.base is not None and name != "optimizer")
    return getattr(options, name) if is_decided else None


def _is_learned(options: Options) -> bool:
    return bool(options.weighted_pooling == "learned")


def _training(asked: Recipe, manifest: Manifest, options: Options) -> dict[str, Any]:
    schema = manifest.origin.get("options", {}).get("schema", {})
    values: dict[str, Any] = {
        "loss_function": "bce",
        **({"list_loss": "lambdarank"} if schema.get("relevance") else {}),
        "mini_batch_size": asked.batch_size,
        "nepochs": asked.epochs,
        "optimizer": asked.optimizer,
        "learning_rate": asked.learning_rate,
        "data_randomize": "total",
        "linear_start": asked.linear_start and not options.load_model and not options.wide,
    }
    if not options.given & {*_SCHEDULE, "reduce_on_plateau"}:
        values["lr_num_decay_steps"] = _updates(asked, options)
    return values


def _updates(asked: Recipe, options: Options) -> int:
    """Return the updates of the whole run, over which the learning rate decays to zero."""
    batches = asked.steps // max(1, asked.epochs)
    if options.num_batches:
        batches = min(batches, options.num_batches)
    per_epoch: int = -(-batches // max(1, options.mlperf_grad_accum_iter))
    return max(1, per_epoch * asked.epochs)


def _tests(asked: Recipe, options: Options, rows_of_list: int) -> dict[str, Any]:
    every = asked.test_every
    if options.num_batches:
        every = min(every, max(1, options.num_batches // 2))
    per_update = max(1, options.mlperf_grad_accum_iter)
    return {
        "test_freq": -(-every // per_update) * per_update,
        "test_mini_batch_size": max(asked.batch_size, 4096 // max(1, rows_of_list)),
        "early_stopping": PATIENCE,
        "restore_best": True,
    }


def _architecture(asked: Recipe, manifest: Manifest, options: Options) -> dict[str, Any]:
    """Return a family, its width and its layers, around those of them that were given."""
    family = asked.family
    has_bottom = "mlp_bottom" in family_values(family)
    bottom_given = "arch_mlp_bot" in options.given and len(options.arch_mlp_bot) > 1
    width = options.arch_mlp_bot[-1] if bottom_given and has_bottom else asked.embedding_dim
    if "arch_sparse_feature_size" in options.given:
        width = options.arch_sparse_feature_size
    dense = len(manifest.dense)
    bottom = (dense, *asked.bottom, width) if has_bottom else (dense,)
    return {
        "model": family,
        "arch_sparse_feature_size": width,
        "arch_mlp_bot": bottom if dense else (),
        "arch_mlp_top": asked.top,
        "arch_embedding_size": manifest.table_rows,
        **({"dropout": asked.dropout} if "dropout" in family_values(family) else {}),
    }
