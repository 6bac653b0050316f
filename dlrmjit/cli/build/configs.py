"""The model and training configurations that the options describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from dlrmjit.architecture import Architecture
from dlrmjit.architecture.dynamic_ids import DynamicIds
from dlrmjit.architecture.families import (
    ALWAYS_WIDE,
    HEAD_VALUES,
    SEQUENCE_VALUES,
    build,
    family_values,
)
from dlrmjit.cli.options.parse import Options
from dlrmjit.config.list_loss import LIST_LOSSES, ListLoss
from dlrmjit.config.memory import FLOAT_BYTES, MemoryEstimate, estimate_memory
from dlrmjit.config.mixed_dimensions import mixed_dimensions
from dlrmjit.config.model import AnyModelConfig, ModelConfig, TableConfig
from dlrmjit.config.optimizer import (
    OPTIMIZERS,
    OptimizerConfig,
    UpdateConfig,
    optimizer_named,
)
from dlrmjit.config.quotient_remainder import collisions_of
from dlrmjit.config.training import LossConfig, PlateauConfig, ScheduleConfig, TrainConfig
from dlrmjit.errors import ConfigError, MemoryLimitError, format_gib
from dlrmjit.optim.column_rates import column_number, known_columns

_VALUES = {
    "arch_sparse_feature_size": "embedding_dim",
    "arch_mlp_top": "mlp_top",
    "arch_interaction_op": "interaction",
    "arch_interaction_itself": "interaction_itself",
    "dropout": "dropout",
    "batch_norm": "batch_norm",
    "layer_norm": "layer_norm",
    "mlp_bot_activation": "bottom_activation",
    "mlp_top_activation": "top_activation",
    "wide": "wide",
    "dcn_num_layers": "cross_layers",
    "dcn_low_rank_dim": "cross_rank",
    "interaction_branch1_layer_sizes": "branch1",
    "interaction_branch2_layer_sizes": "branch2",
    "table_dims": "table_dims",
    "md_flag": "table_dims",
}
"""The value of a family that each option gives."""


def model_config(
    options: Options,
    table_rows: Sequence[int],
    dense_features: int | None = None,
    names: Sequence[str] = (),
) -> AnyModelConfig:
    """Return the model that the options describe, over tables of ``table_rows``.

    ``dense_features`` is the number of dense columns of a data set, which overrides the input
    width of the bottom MLP; if it is 0 there is no bottom MLP. ``names`` are those of the
    categorical columns, if they have any. Raises ConfigError for sizes that contradict each other.
    """
    if options.saved_nodes is not None:
        return _fitting(options.saved_nodes, table_rows, dense_features)
    model = _described_model(options, table_rows, dense_features, names)
    if not options.stream:
        return model
    columns = tuple(range(len(table_rows)))
    return replace(model, dynamic=DynamicIds(columns, options.dynamic_after, options.dynamic_age))


def _described_model(
    options: Options,
    table_rows: Sequence[int],
    dense_features: int | None,
    names: Sequence[str],
) -> AnyModelConfig:
    wanted = family_values(options.model)
    for option, value in _VALUES.items():
        is_always = option == "wide" and options.model in ALWAYS_WIDE
        if option in options.given and value not in wanted and not is_always:
            flag = option.replace("_", "-")
            raise ConfigError(f"--{flag} has no effect on --model={options.model}; leave it out")
    values = {value: getattr(options, option) for option, value in _VALUES.items()}
    values["table_rows"] = tuple(table_rows)
    values["table_dims"] = _table_dims(options, table_rows)
    tables = _kind_of_tables(options, table_rows)
    if "mlp_bottom" in wanted:
        values["mlp_bottom"] = _bottom(dense_features, options)
    else:
        values["dense_features"] = _dense_features(dense_features, options)
    values |= _head(options) | _sequence(options, len(table_rows), names)
    if options.model == "dlrm" and not options.has_parts:
        known = {name: value for name, value in values.items() if name in wanted}
        return ModelConfig(**known, **tables)
    return _with_kind(build(options.model, _wider(values, tables)), tables, options)


def _head(options: Options) -> dict[str, Any]:
    """Return the values of the head; raises ConfigError for flags of none."""
    if options.head is None:
        other = next((name for name in ("head_layers", "head_dim") if name in options.given), None)
        if other is not None:
            raise ConfigError(f"--{other.replace('_', '-')} is of a head; give --head, too")
        return {}
    return {name: getattr(options, name) for name in HEAD_VALUES}


def _sequence(options: Options, columns: int, names: Sequence[str]) -> dict[str, Any]:
    """Return the values of the sequence; raises ConfigError for a column that is not there."""
    if options.sequence is None:
        return {}
    number = column_number(options.sequence, names, columns)
    if number is None:
        raise ConfigError(
            f"there is no categorical column {options.sequence!r} for --sequence; "
            f"{known_columns(names, columns)}"
        )
    return {name: getattr(options, name) for name in SEQUENCE_VALUES} | {"sequence": number}


def _kind_of_tables(options: Options, table_rows: Sequence[int]) -> dict[str, Any]:
    """Return values of a ModelConfig: quotients and remainders, and how bags are pooled."""
    collisions = options.saved_collisions
    if options.qr_flag:
        collisions = collisions_of(
            table_rows, collisions=options.qr_collisions, threshold=options.qr_threshold
        )
    return {
        "qr_collisions": collisions,
        "qr_operation": options.qr_operation if any(collisions) else "mult",
        "pooling": options.pooling,
        "learned_pooling": options.weighted_pooling == "learned",
    }


def _wider(values: dict[str, Any], tables: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a family whose vectors are concatenated from two of half the width."""
    if tables["qr_operation"] != "concat":
        return values
    return values | {"embedding_dim": 2 * values["embedding_dim"]}


def _with_kind(model: Architecture, tables: dict[str, Any], options: Options) -> Architecture:
    """Return a model of another family with these tables of vectors; all tables pool alike."""
    for node in model.embeddings:
        if not node.positions:
            model = model.with_values(node.name, pooling=tables["pooling"])
    collisions, learned = tables["qr_collisions"], tables["learned_pooling"]
    if not any(collisions) and not learned:
        return model
    if not any(node.name == "emb_l" for node in model.embeddings):
        flag = "--qr-flag" if collisions else "--weighted-pooling"
        raise ConfigError(f"{flag} has no effect on --model={options.model}; leave it out")
    return model.with_values(
        "emb_l", collisions=collisions, operation=tables["qr_operation"], learned=learned
    )


def _fitting(
    nodes: Architecture, table_rows: Sequence[int], dense_features: int | None
) -> Architecture:
    """Return the nodes of a loaded model, if they fit the data."""
    given = tuple(table_rows), nodes.dense_features if dense_features is None else dense_features
    if given != (nodes.table_rows, nodes.dense_features):
        raise ConfigError(
            f"the loaded model has tables of {nodes.table_rows} rows and {nodes.dense_features} "
            f"dense features, but the data {given[0]} and {given[1]}; give the data it was trained "
            "on"
        )
    return nodes


def _dense_features(found: int | None, options: Options) -> int:
    """Return the number of dense features of a model without a bottom MLP."""
    widths = tuple(options.arch_mlp_bot)
    if "arch_mlp_bot" in options.given and len(widths) > 1:
        raise ConfigError(
            f"--model={options.model} has no bottom MLP: --arch-mlp-bot is the number of dense "
            f"features alone, not {'-'.join(map(str, widths))}"
        )
    return found if found is not None else widths[0] if widths else 0


def _bottom(dense_features: int | None, options: Options) -> tuple[int, ...]:
    """Return the widths of the bottom MLP."""
    if dense_features is None:
        return tuple(options.arch_mlp_bot)
    return _bottom_over(dense_features, options)


def _table_dims(options: Options, table_rows: Sequence[int]) -> tuple[int, ...]:
    if not options.md_flag:
        return tuple(options.table_dims)
    return mixed_dimensions(
        table_rows,
        options.arch_sparse_feature_size,
        temperature=options.md_temperature,
        threshold=options.md_threshold,
        powers_of_two=options.md_round_dims,
    )


def _bottom_over(dense_features: int, options: Options) -> tuple[int, ...]:
    """Return the widths of the bottom MLP over data with ``dense_features`` columns."""
    asked = tuple(options.arch_mlp_bot)
    if dense_features:
        if not asked:
            raise ConfigError(
                f"the data have {dense_features} dense features, but --arch-mlp-bot asks for no "
                "bottom MLP; give its widths, or prepare the data without them"
            )
        return (dense_features, *asked[1:])
    if asked and "arch_mlp_bot" in options.given:
        raise ConfigError("the data have no dense features for a bottom MLP; give --arch-mlp-bot=0")
    return ()


def table_config(options: Options) -> TableConfig:
    """Return where tables are stored and how indices outside them are treated."""
    return TableConfig(options.embedding_dir, options.bounds)


def train_config(options: Options) -> TrainConfig:
    """Return the training configuration that the options describe."""
    return TrainConfig(
        epochs=options.nepochs,
        learning_rate=options.learning_rate,
        optimizer=update_config(options),
        loss=loss_config(options),
        schedule=ScheduleConfig(
            options.lr_num_warmup_steps, options.lr_decay_start_step, options.lr_num_decay_steps
        ),
        plateau=_plateau_config(options),
        early_stopping=_early_stopping(options),
        monitor=options.monitor,
        test_first=options.linear_start and is_testing(options),
        restore_best=_restore_best(options),
        test_every=max(0, options.test_freq),
        accuracy_threshold=options.mlperf_acc_threshold,
        auc_threshold=options.mlperf_auc_threshold,
        batches_per_update=options.mlperf_grad_accum_iter,
        on_nonfinite=options.on_nonfinite,
    )


def loss_config(options: Options) -> LossConfig | ListLoss:
    """Return the loss; raises ConfigError for options of losses of rows with one of lists."""
    if options.list_loss is None:
        return LossConfig(
            options.loss_function,
            options.loss_weights,
            options.loss_threshold,
            soft_labels=options.soft_labels,
        )
    losses = ("loss_function", "loss_weights", "loss_threshold", "soft_labels")
    other = next((name for name in losses if name in options.given), None)
    if other is not None:
        flag = other.replace("_", "-")
        raise ConfigError(f"--{flag} is of losses of rows; give it or --list-loss, not both")
    return ListLoss(LIST_LOSSES[options.list_loss])


def update_config(options: Options) -> UpdateConfig:
    """Return the optimizers of MLPs and tables, with the constants that the options give."""
    return UpdateConfig(
        mlps=_optimizer(options.optimizer, options, options.weight_decay),
        tables=_optimizer(
            options.sparse_optimizer or options.optimizer, options, _tables_decay(options)
        ),
        tables_rate=_tables_rate(options),
        column_rates=_column_rates(options),
        clip_norm=options.clip_norm,
    )


def _tables_decay(options: Options) -> float | None:
    decay: float | None = options.sparse_weight_decay
    return options.weight_decay if decay is None else decay


def _optimizer(name: str, options: Options, weight_decay: float | None) -> OptimizerConfig:
    """Return the optimizer of that name, with those constants that it has and a flag gives."""
    constants = {} if weight_decay is None else {"weight_decay": weight_decay}
    for constant in fields(OPTIMIZERS[name]):
        for flag in (constant.name, f"optimizer_{constant.name}"):
            value = getattr(options, flag, None)
            if constant.name != "weight_decay" and value is not None:
                constants[constant.name] = value
    return optimizer_named(name, **constants)


def _tables_rate(options: Options) -> float:
    """Return the tables' learning rate as a multiple of the MLPs'."""
    rate = options.sparse_learning_rate
    return 1.0 if rate is None else _multiple(rate, options, "--sparse-learning-rate")


def _column_rates(options: Options) -> dict[str | int, float]:
    """Return the learning rates of single columns' tables as multiples of the MLPs'."""
    flag = "--table-learning-rate"
    return {name: _multiple(rate, options, flag) for name, rate in options.table_learning_rate}


def _multiple(rate: float, options: Options, flag: str) -> float:
    """Return a rate as a multiple of --learning-rate."""
    if options.learning_rate == 0:
        raise ConfigError(f"{flag} follows the schedule of --learning-rate, which must not be 0")
    return float(rate / options.learning_rate)


def _plateau_config(options: Options) -> PlateauConfig | None:
    if not options.reduce_on_plateau:
        return None
    if not is_testing(options):
        raise ConfigError("--reduce-on-plateau needs tests; give --test-freq")
    return PlateauConfig(
        options.reduce_on_plateau, options.plateau_patience, options.plateau_threshold
    )


def _restore_best(options: Options) -> bool:
    if options.restore_best and not is_testing(options):
        raise ConfigError("--restore-best needs tests; give --test-freq")
    return bool(options.restore_best)


def _early_stopping(options: Options) -> int:
    if options.early_stopping and not is_testing(options):
        raise ConfigError("--early-stopping needs tests; give --test-freq")
    return int(options.early_stopping)


def is_testing(options: Options) -> bool:
    """Return whether there are tests during training.

    As in the reference, only if ``--test-freq`` is positive; but with synthetic data, which the
    reference does not have, the model is tested after each epoch unless ``--test-freq`` is given.
    """
    if options.test_freq > 0:
        return True
    return options.data_generation == "synthetic" and "test_freq" not in options.given


def require_memory(config: AnyModelConfig, options: Options, available: int) -> None:
    """Raise MemoryLimitError, with the figures, for a model that ``available`` bytes cannot hold.

    Call it before anything is allocated.
    """
    need = estimated_memory(config, options)
    if need.total > available:
        raise MemoryLimitError(_memory_message(need, options, available))


def estimated_memory(config: AnyModelConfig, options: Options) -> MemoryEstimate:
    """Return the estimated bytes of the model, a training step and the optimizer state."""
    lookups = options.lookups_per_table if options.data_generation != "dataset" else 1
    in_files = options.embedding_dir is not None
    update = update_config(options)
    need = estimate_memory(config, options.mini_batch_size, lookups, update, in_files)
    if options.restore_best:  # the best parameters are copied to memory, also from files
        copied = config.architecture.table_parameters * FLOAT_BYTES
        need = replace(need, tables=need.tables + copied, mlp=need.mlp * 3 // 2)
    return need


def _memory_message(need: MemoryEstimate, options: Options, available: int) -> str:
    states = f"{format_gib(need.optimizer)} for the optimizer, " if need.optimizer else ""
    name = f"--config={options.config}" if options.config else "the model"
    parts = (
        f"{format_gib(need.tables)} for the tables, {format_gib(need.mlp)} for the MLPs, "
        f"{states}{format_gib(need.step)} for a batch of {options.mini_batch_size}"
    )
    return (
        f"{name} needs {format_gib(need.total)} of memory ({parts}), but {format_gib(available)} "
        "are available; bound the rows of its tables with --max-ind-range, give other tables with "
        "--arch-embedding-size, store them in files with --embedding-dir, or distribute them over "
        f"{-(-need.total // max(available, 1))} such machines with mpiexec"
    )
