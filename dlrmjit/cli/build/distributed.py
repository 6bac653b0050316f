"""One rank of several: its share of the CPUs and of the tables, and how it reports errors.

Without a launcher there is one rank, and nothing here has an effect.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from dlrmjit_kernels.runtime.buffers import available_memory
from dlrmjit_kernels.runtime.threads import available_cpus

from dlrmjit import knobs
from dlrmjit.architecture.architecture import Architecture
from dlrmjit.cli.build.configs import table_config, train_config
from dlrmjit.cli.exit_codes import FAILED, INTERRUPTED, WRONG_INPUT
from dlrmjit.cli.options.parse import Options
from dlrmjit.config.list_loss import ListLoss
from dlrmjit.config.memory import estimate_memory
from dlrmjit.config.model import IN_MEMORY, AnyModelConfig
from dlrmjit.config.optimizer import OptimizerConfig
from dlrmjit.config.training import TrainConfig
from dlrmjit.data.source import Source
from dlrmjit.errors import ConfigError, DlrmjitError, JobError, TrainingError
from dlrmjit.files import parse_json, refuse_special
from dlrmjit.model.model import Model
from dlrmjit.parallel.comm import (
    AdaptiveComm,
    Comm,
    RanksDifferError,
    adaptive,
    blocking,
    exchange_json,
    report,
    threaded,
    yield_to_lower_ranks,
)
from dlrmjit.parallel.dynamic import with_dynamic_rows
from dlrmjit.parallel.exchanges.choice import proposed_with_exchange
from dlrmjit.parallel.metrics import evaluate as evaluate_sharded
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.plan import Plan, plan_from_dict
from dlrmjit.parallel.planner import MIN_SHARD_COLUMNS, propose
from dlrmjit.parallel.reproducible_step import GradientSquares, ReproducibleStep
from dlrmjit.parallel.routing import ShardedSource
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.perf.profile import Profile
from dlrmjit.training.fit import MeasureFunction
from dlrmjit.training.persistence import model_of

PARTS_BETWEEN_HOSTS = 2
"""Micro-batches of a step by default where pooled vectors travel between hosts."""

AnyShardedStep = ShardedStep | ReproducibleStep


def bind_to_cpus(comm: Comm, options: Options) -> Comm:
    """Bind this rank to its share of the host's CPUs; return the communicator to use.

    Raises ConfigError when ``--comm-cores`` leaves no CPU of the share to compute with.
    """
    if comm.size == 1:
        return comm
    cpus = cpus_of_rank(comm)
    reserved = options.comm_cores if options.comm == "thread" else 0
    if reserved and reserved >= len(cpus):
        raise ConfigError(
            f"--comm-cores={reserved} leaves none of a rank's {len(cpus)} CPUs to compute with; "
            "start fewer ranks on this host"
        )
    computing, communicating = cpus[: len(cpus) - reserved], cpus[len(cpus) - reserved :]
    if computing:
        os.sched_setaffinity(0, computing)
    if options.comm == "thread":
        return threaded(comm, communicating)
    if options.comm == "auto" and options.reproducible is None:
        return adaptive(comm)
    return blocking(comm) if options.comm == "blocking" else comm


def cpus_of_rank(comm: Comm) -> list[int]:
    """Return this rank's CPUs among those of its host; none where the system cannot bind."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    number, count = comm.local_ranks()
    cpus = sorted(os.sched_getaffinity(0))
    if count > len(cpus):
        text = f"{count} ranks share {len(cpus)} CPUs of this host, and wait for each other"
        print(f"dlrmjit: note: {text}", file=sys.stderr)
    each = max(1, available_cpus() // count)
    return [cpus[(number * each + i) % len(cpus)] for i in range(each)]


def abort_on_error(action: Callable[[], None], comm: Comm) -> None:
    """Run ``action``; if it fails on this rank, report the error and end all ranks.

    An error on every rank is reported once, by the first: the others wait until it ends them.
    Does not return after a failure if there are several ranks.
    """
    if comm.size == 1:
        action()
        return
    try:
        action()
    except KeyboardInterrupt:
        _end(comm, "dlrmjit: interrupted", INTERRUPTED)
    except (RanksDifferError, JobError) as error:
        _end(comm, f"dlrmjit: error: {error}", WRONG_INPUT)
    except TrainingError as error:  # of all ranks
        _end(comm, f"dlrmjit: error: {error}", FAILED)
    except DlrmjitError as error:
        _end(comm, f"dlrmjit: error: rank {comm.rank}: {error}", WRONG_INPUT)
    except BrokenPipeError:  # the reader of the output has closed it
        comm.abort(FAILED)
    except BaseException as error:  # an exit, too, would leave the others waiting
        if isinstance(error, OSError) and error.filename is not None:
            where = f"{error.filename!s:.200}: {error.strerror}"
            _end(comm, f"dlrmjit: error: rank {comm.rank}: {where}", WRONG_INPUT)
        _end(comm, f"dlrmjit: error: rank {comm.rank} failed\n{traceback.format_exc()}", FAILED)


def _end(comm: Comm, message: str, code: int) -> None:
    try:
        yield_to_lower_ranks(comm)
        report(message)
    finally:  # also after a second Ctrl-C
        comm.abort(code)


def is_sharded(options: Options, comm: Comm) -> bool:
    """Return whether tables and batches are sharded; ``--reproducible`` does so on one rank too."""
    return comm.size > 1 or options.reproducible is not None


def make_model(
    architecture: AnyModelConfig,
    options: Options,
    comm: Comm,
    rng: np.random.RandomState,
    initialise: bool,
) -> Model:
    """Return the model of this rank; raises MemoryLimitError before anything is allocated."""
    how = {
        "backend": options.backend,
        "rng": rng,
        "initialise": initialise,
        "init": options.init,
        "precision": options.precision,
        "seed": options.numpy_rand_seed,
    }
    tables = table_config(options)
    if not is_sharded(options, comm):
        if options.comm_dtype != "fp32":
            raise ConfigError(
                "--comm-dtype rounds what ranks send each other, but this is one process; leave it "
                "out, or start ranks under mpiexec"
            )
        return model_of(architecture, **how, tables=tables)
    if tables != IN_MEMORY:
        raise ConfigError("--embedding-dir and --bounds need one process and no --reproducible")
    if options.reproducible is not None and options.micro_batches is not None:
        raise ConfigError(
            "--micro-batches has no effect here: --reproducible says how many parts a batch has; "
            "leave it out"
        )
    return ShardedModel(
        architecture,
        comm,
        make_plan(architecture, options, comm),
        **how,
        strategy=knobs.alltoall(),
        comm_dtype=options.comm_dtype,
        micro_batches=options.reproducible,
    )


def make_plan(architecture: AnyModelConfig, options: Options, comm: Comm) -> Plan:
    """Return the plan that the options name, a file or a kind, within this host's memory."""
    exchange, is_file = options.exchange, Path(options.plan).suffix == ".json"
    if is_file and "exchange" not in options.given:
        plan = _placed(architecture, options, comm).fold(comm.size)
        return _checked(plan, architecture, options)
    if options.reproducible is not None and exchange == "auto":
        exchange = "alltoall"

    def proposed(replicates: bool) -> Plan:
        return _placed(architecture, options, comm, replicates=replicates)

    samples = options.mini_batch_size
    plan = proposed_with_exchange(
        proposed,
        architecture.architecture,
        exchange,
        samples,
        divides_weights=not train_config(options).update.mlps.scales_to_norm,
    )
    return _checked(plan.fold(comm.size), architecture, options)


def _checked(plan: Plan, architecture: AnyModelConfig, options: Options) -> Plan:
    """Return the plan if the other options have an effect with it."""
    if options.comm_dtype != "fp32" and not _sends_vectors(plan, architecture.architecture):
        raise ConfigError(
            "--comm-dtype rounds pooled vectors, but none are sent here: all tables are "
            "replicated, or sums are exchanged instead; leave it out"
        )
    return plan


def _sends_vectors(plan: Plan, architecture: Architecture) -> bool:
    specs = zip(architecture.table_specs, plan.placements, strict=True)
    return any(s.node not in plan.substituted and p.kind != "replicated" for s, p in specs)


def _placed(
    architecture: AnyModelConfig, options: Options, comm: Comm, *, replicates: bool = True
) -> Plan:
    """Return where tables are, on as many ranks as a batch has parts or a file says.

    With ``replicates`` small tables may be on all ranks.
    """
    shares = options.reproducible or comm.size
    rows, dims = table_sizes(architecture)
    if Path(options.plan).suffix == ".json":
        return read_plan(options.plan, architecture)
    if shares % comm.size:
        raise ConfigError(
            f"--reproducible={shares} must be a multiple of the number of ranks, {comm.size}"
        )
    memory = table_memory(architecture, options, comm)
    lookups = _lookups_of(architecture, options)
    each = memory * comm.size // shares
    min_columns = max(dims) if _table_rule(options).row_states else MIN_SHARD_COLUMNS
    is_learned = bool(architecture.architecture.row_weight_specs)
    has_positions = any(node.positions for node in architecture.architecture.embeddings)
    if is_learned:
        min_columns = max(dims)
    plan = propose(
        rows,
        dims,
        shares,
        kind=options.plan,
        replicates=replicates and not (is_learned or has_positions),
        lookups=lookups,
        memory=each,
        min_columns=min_columns,
    )
    return with_dynamic_rows(plan, architecture.architecture)


def read_plan(path: str, architecture: AnyModelConfig) -> Plan:
    """Return the plan in a JSON file; raises ConfigError naming the file."""
    refuse_special(path, ConfigError, "--plan: ")
    try:
        description = parse_json(Path(path).read_bytes(), "the file", ConfigError)
        return plan_from_dict(description, *table_sizes(architecture))
    except (OSError, ValueError, ConfigError) as error:
        raise ConfigError(f"--plan: {path}: {error}") from error


def table_sizes(architecture: AnyModelConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the rows and the columns of all tables."""
    specs = architecture.architecture.table_specs
    return tuple(spec.rows for spec in specs), tuple(spec.dim for spec in specs)


def table_memory(architecture: AnyModelConfig, options: Options, comm: Comm) -> int:
    """Return the bytes that every rank may fill with tables; all ranks call this."""
    _, count = comm.local_ranks()
    share = -(-options.mini_batch_size // comm.size)
    lookups = options.lookups_per_table if options.data_generation != "dataset" else 1
    need = estimate_memory(architecture, share, lookups, train_config(options).update)
    # All ranks plan with the memory of the poorest: otherwise their plans would differ.
    available: int = min(exchange_json(comm, available_memory() // count, "memory"))
    left = available - need.mlp - need.step
    return int(max(0, left)) // (1 + len(_table_rule(options).table_states))


def _lookups_of(architecture: AnyModelConfig, options: Options) -> list[int]:
    """Return the lookups per bag of every table; of data sets, which do not say, one."""
    columns = [spec.column for spec in architecture.architecture.table_specs]
    if options.data_generation == "dataset":
        return [1] * len(columns)
    return [options.lookups_per_table[column] for column in columns]


def _table_rule(options: Options) -> OptimizerConfig:
    return train_config(options).update.tables


def sharded_source(model: Model, source: Source) -> Source:
    """Return this rank's part of a source."""
    if isinstance(model, ShardedModel):
        return ShardedSource(source, model.router)
    return source


def profile_of(model: Model) -> Profile:
    """Return a profile, which for many ranks includes the time of communication."""
    return Profile(model.comm.waited) if isinstance(model, ShardedModel) else Profile()


def training_step(
    model: Model,
    options: Options,
    config: TrainConfig,
    profile: Profile | None,
    on_squares: Callable[[GradientSquares], None] | None = None,
) -> AnyShardedStep | None:
    """Return the training step of a sharded model; None for a model of one process.

    ``on_squares`` belongs to ``--reproducible``.
    """
    if not isinstance(model, ShardedModel):
        return None
    comm: Any = model.comm
    on_seconds = comm.end_step if isinstance(comm, AdaptiveComm) else None
    if options.reproducible is None:
        return ShardedStep(
            model,
            config.optimizer,
            config.loss,
            profile,
            checks_loss_first=config.on_nonfinite == "skip",
            seed=options.numpy_rand_seed,
            parts=_parts(model, options, config),
            on_seconds=on_seconds,
        )
    seed = options.numpy_rand_seed
    return ReproducibleStep(model, config.optimizer, config.loss, seed=seed, on_squares=on_squares)


def _parts(model: ShardedModel, options: Options, config: TrainConfig) -> int:
    """Return the micro-batches of a rank's step: by default several between hosts."""
    if options.micro_batches is not None:
        return int(options.micro_batches)
    is_alone = model.comm.local_ranks().size == model.comm.size
    has_lists = isinstance(config.loss, ListLoss)
    return 1 if is_alone or has_lists or knobs.alltoall() != "alltoall" else PARTS_BETWEEN_HOSTS


def measure_function(model: Model) -> MeasureFunction | None:
    """Return how all ranks evaluate together; None for a model of one process."""
    return evaluate_sharded if isinstance(model, ShardedModel) else None


def is_main_rank(model: Model) -> bool:
    """Return whether this rank prints and logs for all."""
    return not isinstance(model, ShardedModel) or model.comm.rank == 0


def communication_lines(comm: Comm, steps: int) -> str:
    """Return lines with the time per step that this rank waited, and the bytes it sent."""
    each = max(steps, 1)
    waited = [f"{name} {1000 * s / each:.2f}" for name, s in sorted(comm.waited.items())]
    sent = [f"{name} {n / 1000 / each:,.1f}" for name, n in sorted(comm.traffic.sent.items())]
    return (
        f"Communication exposed per step of {comm.size} ranks, in ms: {', '.join(waited)}\n"
        f"Sent per step by the first rank, in kB: {', '.join(sent)}"
    )
