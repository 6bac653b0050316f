"""Defaults of a model's architecture, derived from the prepared set it is trained on."""

from __future__ import annotations

import copy
from pathlib import Path

from dlrmjit.cli.options.parse import Options
from dlrmjit.data.source import Source
from dlrmjit.optim.column_rates import names_of

_WIDTH = 16
_HIDDEN, _TOP = (512, 256, 64), (512, 256, 1)
"""The reference's layers for Criteo Kaggle."""


def fit_architecture(options: Options, data: Source) -> Options:
    """Return the options with every ``--arch-*`` that was not given derived from ``data``.

    Applies to a stream and to a prepared set without ``--config``, whose tables and dense columns
    are known; everything else keeps the reference's defaults.
    """
    processed = options.processed_data_file
    is_set = options.data_generation == "dataset" and processed and Path(processed).is_dir()
    if not (is_set or options.stream) or options.base is not None or options.set:
        return options
    derived, given = copy.copy(options), options.given
    bottom_given = "arch_mlp_bot" in given and bool(options.arch_mlp_bot)
    if "arch_sparse_feature_size" not in given:
        derived.arch_sparse_feature_size = options.arch_mlp_bot[-1] if bottom_given else _WIDTH
    if "arch_mlp_bot" not in given:
        dense, width = data.dense_features, derived.arch_sparse_feature_size
        derived.arch_mlp_bot = (dense, *_HIDDEN, width) if dense else ()
    if "arch_mlp_top" not in given:
        derived.arch_mlp_top = _TOP
    derived.arch_embedding_size = tuple(data.table_rows)
    return derived


def column_names(data: Source) -> tuple[str, ...]:
    """Return the names of the categorical columns, nothing if the data have none."""
    return tuple(names_of(getattr(data, "preprocessing", None)))


def derived_line(before: Options, after: Options) -> str:
    """Return the derived options as flags, in one line; empty if none was derived."""
    names = ("arch_sparse_feature_size", "arch_mlp_bot", "arch_mlp_top")
    shown = [
        f"--{name.replace('_', '-')}={_dashed(getattr(after, name))}"
        for name in names
        if getattr(after, name) != getattr(before, name)
    ]
    return f"From the set: {' '.join(shown)}" if shown else ""


def _dashed(value: int | tuple[int, ...]) -> str:
    widths = value if isinstance(value, tuple) else (value,)
    return "-".join(map(str, widths)) or "0"
