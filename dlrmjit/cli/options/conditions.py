"""What an option of training needs of the other options to have any effect.

The reference accepts options that change nothing, and its command lines have them: of its own
options a note says so. Others, and all of ``train SET``, are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from functools import partial

from dlrmjit.cli.options.flag import Condition
from dlrmjit.cli.options.parse import Options
from dlrmjit.cli.options.reference_flags import REFERENCE_GROUPS
from dlrmjit.config.optimizer import OPTIMIZERS
from dlrmjit.errors import ConfigError

_OF_REFERENCE = {flag.dest for group in REFERENCE_GROUPS for flag in group.flags}


def check_effects(options: Options, ranks: int, is_testing: bool) -> list[str]:
    """Return a note for every option of the reference that has no effect with the others.

    Options are those of a run, what follows from a set included. Raises ConfigError naming the
    first of any other such option.
    """
    notes = []
    for name, needs in _without_effect(options, ranks, is_testing):
        flag = f"--{name.replace('_', '-')}"
        if name in _OF_REFERENCE and not options.set:
            notes.append(f"{flag} has no effect here: it needs {needs}")
        elif name in _OF_RANKS:
            notes.append(f"{flag} has no effect in one process: it is for ranks, under mpiexec")
        else:
            raise ConfigError(f"{flag} has no effect here: it needs {needs}; leave it out")
    return notes


def _without_effect(options: Options, ranks: int, is_testing: bool) -> Iterator[tuple[str, str]]:
    for condition in (*_CONDITIONS, *_of_constants()):
        if not condition.holds(options):
            for name in condition.names:
                if name in options.given:
                    yield name, condition.needs
    groups = ((_OF_RANKS, ranks > 1, "ranks"), (_OF_TESTS, is_testing, "tests: --test-freq"))
    for names, holds, needs in groups:
        yield from ((name, needs) for name in names if name in options.given and not holds)


def _of_constants() -> Iterator[Condition]:
    """Yield a condition for each constant of optimizers that is an option."""
    every = {field.name for kind in OPTIMIZERS.values() for field in fields(kind)}
    for constant in sorted(every - {"weight_decay"}):
        kinds = [name for name, kind in OPTIMIZERS.items() if _has(kind, constant)]
        needs = f"--optimizer={' or '.join(kinds)}"
        names = (constant, f"optimizer_{constant}")
        yield Condition(names, needs, partial(_uses, kinds))


def _has(kind: type, constant: str) -> bool:
    return constant in {field.name for field in fields(kind)}


def _uses(kinds: list[str], options: Options) -> bool:
    """Return whether dense parameters or tables have an optimizer of these kinds."""
    return options.optimizer in kinds or (options.sparse_optimizer or options.optimizer) in kinds


def _is_text(options: Options) -> bool:
    """Return whether Criteo's text, or the reference's file of it, may be read."""
    return options.data_generation == "dataset" and not options.set


_OF_RANKS = ("plan", "exchange", "comm", "comm_cores", "comm_timeout", "micro_batches")
_OF_TESTS = (
    "monitor",
    "mlperf_acc_threshold",
    "mlperf_auc_threshold",
    "test_mini_batch_size",
)
_GENERATED = "--data-generation=random or synthetic"
_CONDITIONS = (
    Condition(
        ("md_threshold", "md_temperature", "md_round_dims"), "--md-flag", lambda o: o.md_flag
    ),
    Condition(("qr_threshold", "qr_operation", "qr_collisions"), "--qr-flag", lambda o: o.qr_flag),
    Condition(("loss_weights",), "--loss-function=wbce", lambda o: o.loss_function == "wbce"),
    Condition(("data_size",), "--num-batches=0", lambda o: not o.num_batches),
    Condition(
        ("data_size", "num_indices_per_lookup", "num_indices_per_lookup_fixed", "multi_hot_sizes"),
        _GENERATED,
        lambda o: o.data_generation != "dataset",
    ),
    Condition(("arch_embedding_size",), _GENERATED, lambda o: o.data_generation != "dataset"),
    Condition(
        ("max_ind_range",),
        "--config or --data-generation=dataset",
        lambda o: o.base is not None or o.data_generation == "dataset",
    ),
    Condition(
        ("rand_data_dist", "round_targets"),
        "--data-generation=random",
        lambda o: o.data_generation == "random",
    ),
    Condition(
        ("rand_data_min", "rand_data_max", "rand_data_mu", "rand_data_sigma"),
        "--rand-data-dist=gaussian",
        lambda o: o.rand_data_dist == "gaussian",
    ),
    Condition(
        ("data_set", "data_sub_sample_rate", "memory_map"),
        "--data-generation=dataset and a Criteo data set",
        _is_text,
    ),
    Condition(
        ("train_fraction", "test_split", "data_randomize"),
        "--data-generation=dataset",
        lambda o: o.data_generation == "dataset",
    ),
    Condition(("mlperf_bin_shuffle",), "--mlperf-bin-loader", lambda o: o.mlperf_bin_loader),
    Condition(("lr_decay_start_step",), "--lr-num-decay-steps", lambda o: o.lr_num_decay_steps > 0),
    Condition(("print_precision",), "--debug-mode", lambda o: o.debug_mode),
    Condition(("trace_steps",), "--trace", lambda o: bool(o.trace)),
    Condition(
        ("plateau_patience", "plateau_threshold"),
        "--reduce-on-plateau",
        lambda o: o.reduce_on_plateau > 0,
    ),
    Condition(
        ("init", "sparse_init_scale"), "a start without --load-model", lambda o: not o.load_model
    ),
    Condition(
        (
            *("save_model", "log_details", "trace", "tensorboard", "metrics", "prometheus"),
            *("nepochs", "optimizer", "learning_rate", "weight_decay", "clip_norm"),
            *("sparse_optimizer", "sparse_learning_rate", "sparse_weight_decay"),
            *("table_learning_rate", "restore_best", "early_stopping", "reduce_on_plateau"),
            *("lr_num_warmup_steps", "lr_num_decay_steps", "mlperf_grad_accum_iter"),
            *("on_nonfinite", "save_every"),
        ),
        "training: leave out --inference-only",
        lambda o: not o.inference_only,
    ),
    Condition(
        ("print_freq", "print_time", "print_wall_time"),
        "a reference's command line: train SET prints a line per test",
        lambda o: not o.set,
    ),
    Condition(("comm_cores",), "--comm=thread", lambda o: o.comm == "thread"),
    Condition(("head_dim",), "--head=attention", lambda o: o.head == "attention"),
    Condition(
        ("sequence_length", "sequence_filters", "sequence_vertical"),
        "--sequence",
        lambda o: o.sequence is not None,
    ),
)
