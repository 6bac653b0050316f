"""From the words of a command line to options that are known to make sense.

Light on purpose: nothing that loads NumPy or Numba is imported, so that help and mistakes are
answered at once, and the thread pool can be sized before Numba loads.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from dlrmjit.cli.options.flag import Effect, Flag, FlagGroup, switch
from dlrmjit.cli.options.own_flags import INTEL, OPTIMIZERS, OWN, RANKS, TABLES
from dlrmjit.cli.options.reference_flags import REFERENCE_GROUPS
from dlrmjit.config.presets import Preset, preset
from dlrmjit.errors import ConfigError
from dlrmjit.version import __version__

DEMO = "demo"
_BATCHES_OF_PRESET = 100
_DESCRIPTION = (
    "Train a deep learning recommendation model (DLRM) on CPUs. Without options, the built-in "
    "demo: a small model on generated Criteo-like data. With any option of the reference "
    "program dlrm_s_pytorch.py, its defaults hold. The mini-batch is global."
)


class Options(argparse.Namespace):
    """Values of all options by name (dashes as underscores), from most to least explicit.

    ``given`` names the options on the command line; ``base`` is the preset that supplied
    defaults, if any, and ``notes`` are sentences about options that have no effect.
    """

    given: frozenset[str]
    base: Preset | None
    notes: tuple[str, ...]


def all_groups() -> tuple[FlagGroup, ...]:
    """Every group of options, in the order of ``--help``."""
    return (OWN, TABLES, OPTIMIZERS, RANKS, *REFERENCE_GROUPS, INTEL)


def parse(argv: Sequence[str]) -> Options:
    """Options of ``argv`` (without the program's name).

    Raises ConfigError for an option or a value that is unknown, refused or out of range.
    """
    given = _parse_given(argv)
    _check(given)
    options = Options(given=frozenset(given), notes=tuple(_notes(given)))
    options.base = _base_preset(given)
    defaults = {f.dest: f.default for group in all_groups() for f in group.flags}
    if options.base:
        defaults |= _preset_values(options.base, given)
    for name, value in (defaults | given).items():
        setattr(options, name, value)
    _check_together(options)
    return options


def build_parser(groups: Iterable[FlagGroup]) -> argparse.ArgumentParser:
    """An argument parser of ``groups`` whose result holds only what was given."""
    parser = _Parser(
        prog="python -m dlrmjit.train",
        usage="%(prog)s [options]",
        description=_DESCRIPTION,
        argument_default=argparse.SUPPRESS,
        add_help=False,
    )
    for group in groups:
        section = parser.add_argument_group(group.title)
        for flag in group.flags:
            _add(section, flag)
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _add(section: argparse._ArgumentGroup, flag: Flag) -> None:
    text = _help_text(flag).replace("%", "%%")
    if flag.kind is switch:
        section.add_argument(f"--{flag.name}", action="store_true", help=text)
        return
    metavar = "|".join(flag.values) or _METAVARS.get(flag.kind.__name__, "X")
    section.add_argument(f"--{flag.name}", type=flag.kind, metavar=metavar, help=text)


_METAVARS = {
    "int": "N",
    "float": "X",
    "str": "TEXT",
    "boolean": "True|False",
    "dashed_ints": "N-N-...",
    "mlp_widths": "N-N-...",
    "dashed_floats": "X-X-...",
}


def _help_text(flag: Flag) -> str:
    text = flag.help
    if flag.effect is not Effect.WORKS:
        text += f" [{flag.effect.value}: {flag.note}]"
    return text + (f" (default: {flag.default_text})" if flag.default_text else "")


def _parse_given(argv: Sequence[str]) -> dict[str, Any]:
    """Values of the options in ``argv``.

    Intel's options and those of tables and ranks must be written out: were they abbreviated too,
    abbreviations that the reference understands, such as ``--inf``, would become ambiguous.
    """
    full = build_parser(all_groups())
    full.add_argument("-h", "--help", action="help", help="show this text and exit")
    full.add_argument("--version", action="version", version=f"dlrmjit {__version__}")
    if {"-h", "--help", "--version"} & set(argv):
        full.parse_args(argv)
    exact = build_parser([TABLES, OPTIMIZERS, RANKS, INTEL])
    exact.allow_abbrev = False
    extras, rest = exact.parse_known_args(list(argv))
    values, unknown = build_parser([OWN, *REFERENCE_GROUPS]).parse_known_args(rest)
    if unknown:
        raise ConfigError(_unknown_message(unknown[0]))
    return vars(extras) | vars(values)


def _unknown_message(word: str) -> str:
    names = [f"--{flag.name}" for group in all_groups() for flag in group.flags]
    close = difflib.get_close_matches(word.split("=")[0], names, n=1)
    hint = f"did you mean {close[0]}?" if close else "see --help for all options"
    return f"unknown option {word!r}; {hint}"


def _check(given: dict[str, Any]) -> None:
    for flag in _given_flags(given):
        value = given[flag.dest]
        if flag.effect is Effect.REFUSED and value != flag.default:
            raise ConfigError(f"{_spelled(flag, value)} is not supported: {flag.note}")
        if flag.values and value not in flag.values:
            allowed = ", ".join(flag.values)
            raise ConfigError(f"--{flag.name} must be one of {allowed}, not {value!r}")
        if flag.supported and value not in flag.supported:
            raise ConfigError(f"{_spelled(flag, value)} is not supported: {flag.note}")
        if flag.minimum is not None and not value >= flag.minimum:
            raise ConfigError(f"--{flag.name} must be at least {flag.minimum:g}, not {value}")


def _notes(given: dict[str, Any]) -> Iterable[str]:
    for flag in _given_flags(given):
        value = given[flag.dest]
        if flag.effect is Effect.IGNORED and value != flag.default:
            yield f"{_spelled(flag, value)} has no effect here: {flag.note}"


def _given_flags(given: dict[str, Any]) -> Iterable[Flag]:
    return (f for group in all_groups() for f in group.flags if f.dest in given)


def _spelled(flag: Flag, value: object) -> str:
    return f"--{flag.name}" if flag.kind is switch else f"--{flag.name}={value}"


def _base_preset(given: dict[str, Any]) -> Preset | None:
    """The preset named, or the demo where no option of the reference asks for anything else."""
    max_rows = given.get("max_ind_range", 0)
    if "config" in given:
        return preset(given["config"], max_rows)
    reference = {f.dest for group in REFERENCE_GROUPS for f in group.flags}
    is_synthetic = given.get("data_generation") == "synthetic"
    return preset(DEMO, max_rows) if is_synthetic or not reference & set(given) else None


def _preset_values(base: Preset, given: dict[str, Any]) -> dict[str, Any]:
    """The defaults that a preset puts in place of the reference's."""
    model = base.model
    is_demo = base.data_size is not None
    size = _BATCHES_OF_PRESET * given.get("mini_batch_size", base.batch_size)
    return {
        "arch_sparse_feature_size": model.embedding_dim,
        "arch_embedding_size": model.table_rows,
        "arch_mlp_bot": model.mlp_bottom,
        "arch_mlp_top": model.mlp_top,
        "arch_interaction_op": model.interaction,
        "arch_interaction_itself": model.interaction_itself,
        "loss_function": base.loss,
        "round_targets": base.round_targets,
        "data_generation": "synthetic" if is_demo else "random",
        "data_size": base.data_size or size,
        "num_indices_per_lookup": base.lookups,
        "num_indices_per_lookup_fixed": base.lookups_fixed,
        "mini_batch_size": base.batch_size,
        "learning_rate": base.learning_rate,
        "print_freq": 100 if is_demo else 10,
        "print_time": True,
    }


def _check_together(options: Options) -> None:
    """Refuse options that contradict each other."""
    if len(options.loss_weights) != 2:
        raise ConfigError(
            f"--loss-weights needs two numbers (negative-positive), not {len(options.loss_weights)}"
        )
    if options.resume and options.load_model:
        raise ConfigError("give --resume or --load-model, not both: each names the model to load")
    if options.md_flag and options.table_dims:
        raise ConfigError("give --md-flag or --table-dims, not both: each says how wide tables are")
    if options.train_fraction is not None and not 0 < options.train_fraction < 1:
        raise ConfigError(
            f"--train-fraction must lie between 0 and 1, not {options.train_fraction}"
        )
    _check_data_set(options)


def _check_data_set(options: Options) -> None:
    is_dataset = options.data_generation == "dataset"
    if options.train_fraction is not None and options.data_randomize == "day":
        raise ConfigError("--train-fraction knows no days; use --data-randomize=total or none")
    if is_dataset and not (options.raw_data_file or options.processed_data_file):
        raise ConfigError(
            "--data-generation=dataset needs the data: give --raw-data-file or "
            "--processed-data-file"
        )
