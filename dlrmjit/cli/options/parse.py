"""Options of a training run from its command line: presets, notes, contradictions.

Light on purpose, as :mod:`dlrmjit.cli.options.command_line` is.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from dlrmjit.architecture import Architecture
from dlrmjit.cli.options.command_line import notes_on, parse_given
from dlrmjit.cli.options.flag import Command
from dlrmjit.cli.options.insight_flags import INSIGHT
from dlrmjit.cli.options.kinds import PLANS
from dlrmjit.cli.options.model_flags import MODELS, TABLES
from dlrmjit.cli.options.own_flags import INTEL, OPTIMIZERS, OWN, RANKS, SAVING
from dlrmjit.cli.options.reference_flags import REFERENCE_GROUPS
from dlrmjit.cli.options.stream_flags import STREAM
from dlrmjit.config.presets import Preset, preset
from dlrmjit.errors import ConfigError

DEMO = "demo"
_BATCHES_OF_PRESET = 100
_LOOKUPS = {"num_indices_per_lookup", "num_indices_per_lookup_fixed", "rand_data_dist"}

TRAIN = Command(
    "train",
    "Train a deep learning recommendation model (DLRM) on CPUs. With SET alone, everything else "
    "follows from the set. Without SET and options, the built-in demo: a small model on generated "
    "Criteo-like data. Without SET, with any option of the reference program dlrm_s_pytorch.py, "
    "its defaults hold. The mini-batch is global.",
    (OWN, STREAM, INSIGHT, SAVING, MODELS, TABLES, OPTIMIZERS, RANKS, *REFERENCE_GROUPS, INTEL),
)


class Options(argparse.Namespace):
    """Values of all options by name (dashes as underscores), from most to least explicit.

    ``given`` names the options on the command line; ``base`` is the preset that supplied
    defaults, if any, ``words`` is the command line, and ``notes`` are sentences about options that
    have no effect. A model that is loaded may have ``saved_nodes`` or ``saved_collisions``, which
    no option describes; ``stream`` are the files of one.
    """

    given: frozenset[str]
    base: Preset | None
    saved_nodes: Architecture | None = None
    saved_collisions: tuple[int, ...] = ()
    stream: tuple[str, ...] = ()
    notes: tuple[str, ...]
    words: tuple[str, ...] = ()

    @property
    def has_parts(self) -> bool:
        """Whether the model has a head, or the vector of a sequence, next to its family."""
        return self.head is not None or self.sequence is not None

    @property
    def lookups_per_table(self) -> tuple[int, ...]:
        """Most lookups per bag of generated data, for each table."""
        count = len(self.arch_embedding_size)
        return tuple(self.multi_hot_sizes) or (self.num_indices_per_lookup,) * count


def parse(argv: Sequence[str]) -> Options:
    """Return the options of ``argv``, which comes without the program's name.

    Raises ConfigError for an option or a value that is unknown, refused or out of range, and
    for options that contradict each other.
    """
    given = parse_given(TRAIN, argv)
    options = Options(
        given=frozenset(given), words=tuple(argv), notes=tuple(notes_on(TRAIN, given))
    )
    options.base = _base_preset(given)
    defaults = {flag.dest: flag.default for flag in TRAIN.flags()}
    if options.base:
        defaults |= _preset_values(options.base, given)
    for name, value in (defaults | given).items():
        setattr(options, name, value)
    _use_set(options)
    _check_together(options)
    return options


def _base_preset(given: dict[str, Any]) -> Preset | None:
    """Return the preset named, or the demo unless an option of the reference is given."""
    max_rows = given.get("max_ind_range", 0)
    if "config" in given:
        return preset(given["config"], max_rows)
    if given.get("set"):
        return None
    reference = {f.dest for group in REFERENCE_GROUPS for f in group.flags}
    is_synthetic = given.get("data_generation") == "synthetic"
    return preset(DEMO, max_rows) if is_synthetic or not reference & set(given) else None


def _preset_values(base: Preset, given: dict[str, Any]) -> dict[str, Any]:
    """Return the defaults of a preset, which replace the reference's."""
    model = base.model
    is_demo = base.data_size is not None
    size = _BATCHES_OF_PRESET * given.get("mini_batch_size", base.batch_size)
    return {
        "arch_sparse_feature_size": model.embedding_dim,
        "arch_embedding_size": model.table_rows,
        "arch_mlp_bot": model.mlp_bottom,
        "arch_mlp_top": model.mlp_top,
        "model": base.family,
        "dcn_num_layers": base.cross_layers,
        "dcn_low_rank_dim": base.cross_rank,
        "arch_interaction_op": model.interaction,
        "arch_interaction_itself": model.interaction_itself,
        "loss_function": base.loss,
        "round_targets": base.round_targets,
        "data_generation": "synthetic" if is_demo else "random",
        "data_size": base.data_size or size,
        "num_indices_per_lookup": base.lookups,
        "num_indices_per_lookup_fixed": base.lookups_fixed,
        "multi_hot_sizes": () if _LOOKUPS & set(given) else base.multi_hot_sizes,
        "mini_batch_size": base.batch_size,
        "learning_rate": base.learning_rate,
        "optimizer": base.optimizer,
        "print_freq": 100 if is_demo else 10,
        "print_time": True,
    }


_FILES = ("raw_data_file", "processed_data_file")
_OTHER_DATA = (*_FILES, "mlperf_bin_loader", "memory_map")


def _use_set(options: Options) -> None:
    """Let the data be the prepared set that was named, by position or without saying so.

    Raises ConfigError for other data next to it: a set is never left unused without a word.
    """
    kind, is_kind_given = options.data_generation, "data_generation" in options.given
    if kind == "stream":
        _use_stream(options)
        return
    unused = next((name for name in _OF_STREAM if name in options.given), "")
    if unused:
        flag = "a second file" if unused == "files" else f"--{unused.replace('_', '-')}"
        raise ConfigError(f"{flag} is of a stream; add --data-generation=stream, or leave it out")
    if options.set:
        other = next((name for name in _OTHER_DATA if name in options.given), "")
        if other:
            flag = other.replace("_", "-")
            raise ConfigError(f"{options.set} and --{flag} both name data; give one of them")
        options.processed_data_file = options.set
    elif not _is_set(options.processed_data_file):
        return
    if is_kind_given and kind != "dataset":
        raise ConfigError(
            f"{options.processed_data_file} is a prepared set, but --data-generation={kind} trains "
            "on generated data; leave one of them out"
        )
    options.data_generation = "dataset"


_OF_STREAM = ("files", "schema", "stream_test", "dynamic_bytes", "dynamic_after", "dynamic_age")


def _use_stream(options: Options) -> None:
    """Let the operands be the files of a stream; raises ConfigError for other data next to it."""
    if not options.set:
        raise ConfigError("--data-generation=stream needs files: train FILE...")
    other = next((name for name in (*_OTHER_DATA, "max_ind_range") if name in options.given), "")
    if other:
        raise ConfigError(
            f"--{other.replace('_', '-')} has no effect on a stream, whose files are operands and "
            "whose ids are hashes; leave it out"
        )
    options.stream, options.set, options.files = (options.set, *options.files), "", ()
    options.data_generation = "dataset"


def _is_set(path: str) -> bool:
    return bool(path) and os.path.isfile(os.path.join(path, "manifest.json"))


def _check_together(options: Options) -> None:
    """Refuse options that contradict each other."""
    if len(options.loss_weights) != 2:
        raise ConfigError(
            f"--loss-weights needs two numbers (negative-positive), not {len(options.loss_weights)}"
        )
    if len(options.trace_steps) != 2 or not options.trace_steps[1]:
        raise ConfigError(
            "--trace-steps needs two numbers, such as 3-20: the first step and how many"
        )
    if options.resume and options.load_model:
        raise ConfigError("give --resume or --load-model, not both: each names the model to load")
    if options.linear_start and options.load_model:
        raise ConfigError("give --linear-start or --load-model, not both: each is a start")
    if options.save_every and not (options.save_model or options.resume):
        raise ConfigError("--save-every needs a place to save: give --save-model or --resume")
    if "keep" in options.given and not options.save_every:
        raise ConfigError("--keep counts the states of --save-every; give that, too")
    if options.plan not in PLANS and not options.plan.endswith(".json"):
        raise ConfigError(
            f"--plan={options.plan} found, expected {', '.join(PLANS)}, or a .json file that "
            "dlrmjit plan wrote"
        )
    if options.md_flag and options.table_dims:
        raise ConfigError("give --md-flag or --table-dims, not both: each says how wide tables are")
    _check_pooling(options)
    _check_data_set(options)
    _check_lookups(options)


def _check_pooling(options: Options) -> None:
    """Refuse what the reference refuses: tables of several kinds at once."""
    kinds = {
        "--qr-flag": options.qr_flag,
        "--md-flag": options.md_flag,
        "--table-dims": options.table_dims,
        "--weighted-pooling": options.weighted_pooling is not None,
    }
    asked = [flag for flag, value in kinds.items() if value]
    if len(asked) > 1:
        raise ConfigError(
            f"give {' or '.join(asked)}, not {'both' if len(asked) == 2 else 'all'}: tables are of "
            "one kind"
        )


def _check_lookups(options: Options) -> None:
    sizes, tables = options.multi_hot_sizes, len(options.arch_embedding_size)
    if not sizes or options.data_generation == "dataset":
        return
    if len(sizes) != tables:
        raise ConfigError(
            f"--multi-hot-sizes has {len(sizes)} numbers for {tables} tables; give one each"
        )
    other = sorted(_LOOKUPS & options.given)
    if other:
        raise ConfigError(
            f"give --multi-hot-sizes or --{other[0].replace('_', '-')}, not both: sizes say how "
            "many rows a bag has, which are drawn uniformly"
        )


def _check_data_set(options: Options) -> None:
    is_dataset = options.data_generation == "dataset"
    if "baseline" in options.given and not options.set:
        raise ConfigError("--baseline compares a model of a prepared set; name the set: train SET")
    if options.train_fraction is not None and options.data_randomize == "day":
        raise ConfigError(
            "--train-fraction cannot split by day; give --data-randomize=total or none"
        )
    unused = [name for name in _FILES if getattr(options, name)]
    if unused and not is_dataset:
        raise ConfigError(
            f"--{unused[0].replace('_', '-')} names data, but --data-generation="
            f"{options.data_generation} trains on generated data; add --data-generation=dataset, "
            "or leave the file out"
        )
    if is_dataset and not (options.stream or options.raw_data_file or options.processed_data_file):
        raise ConfigError(
            "--data-generation=dataset needs the data: give --raw-data-file or "
            "--processed-data-file"
        )
