"""A training run: build data and model, train or test, report the results."""

from __future__ import annotations

import functools
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dlrmjit_kernels.machine_peaks import ceilings as measure_ceilings
from dlrmjit_kernels.runtime.buffers import available_memory
from dlrmjit_kernels.runtime.threads import get_threads

from dlrmjit.checkpoint import refuse_held_destination
from dlrmjit.cli.build import distributed
from dlrmjit.cli.build.architecture import column_names, derived_line, fit_architecture
from dlrmjit.cli.build.checkpointing import (
    check_save_path,
    checkpoint_of,
    note_other_batches,
    restore,
    restore_optimizer,
)
from dlrmjit.cli.build.configs import (
    estimated_memory,
    is_testing,
    model_config,
    require_memory,
    train_config,
)
from dlrmjit.cli.build.data import Data, check_column_rates, check_lists, make_data
from dlrmjit.cli.build.linear_start import start_from_solution
from dlrmjit.cli.build.rehearsal import rehearsal_of
from dlrmjit.cli.build.saved_model import with_saved_architecture
from dlrmjit.cli.build.set_defaults import with_set_defaults
from dlrmjit.cli.build.start_facts import model_facts
from dlrmjit.cli.commands.verdict import FinalTest, print_scale_notes, print_verdict
from dlrmjit.cli.exit_codes import DONE, SIGNALLED
from dlrmjit.cli.insight.insight import Insight, command_text
from dlrmjit.cli.options.conditions import check_effects
from dlrmjit.cli.options.parse import Options
from dlrmjit.cli.report import debug
from dlrmjit.cli.report.console import ConsoleLines
from dlrmjit.cli.report.json_log import JsonLog, is_json_log
from dlrmjit.cli.report.machine import (
    machine_facts,
    use_threads,
    warn_if_oversubscribed,
)
from dlrmjit.cli.report.mllog import MlperfLog
from dlrmjit.cli.report.pace import ProgressLines
from dlrmjit.cli.report.resume_note import resume_note
from dlrmjit.cli.report.saves import Saves, stopped_line
from dlrmjit.cli.report.set_lines import SetLines, start_lines
from dlrmjit.cli.report.summary import StepTimes, machine_line, metrics_summary, training_summary
from dlrmjit.config.model import AnyModelConfig
from dlrmjit.config.training import TrainConfig
from dlrmjit.data.generate.synthetic import SyntheticSource
from dlrmjit.errors import ConfigError
from dlrmjit.files import check_log, require_space
from dlrmjit.model.model import Model
from dlrmjit.ops import get_backend
from dlrmjit.parallel.comm import Comm, require_agreement
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.perf.profile import Profile
from dlrmjit.perf.roofline import Ceilings
from dlrmjit.progress import ProgressBar
from dlrmjit.progress.memory import peak_rss_bytes
from dlrmjit.training.checkpointer import Checkpointer, restored_state
from dlrmjit.training.events import FitResult, RunState
from dlrmjit.training.fit import Best, Observer, evaluate, fit
from dlrmjit.training.persistence import check_torch_export
from dlrmjit.training.preprocessing import adopt_preprocessing
from dlrmjit.training.saved_architecture import is_torch
from dlrmjit.training.step import TrainingStep
from dlrmjit.warm import compile_ahead

_CEILING_SECONDS = 0.15  # for each ceiling at the end of a run: enough for the best of several


def run(options: Options, comm: Comm) -> int:
    """Run as the options ask; return the exit code.

    Wrong input raises DlrmjitError before anything is written.
    """
    _check_outputs(options, comm)
    options = with_set_defaults(options)
    for note in check_effects(options, comm.size, is_testing(options)):
        print(f"dlrmjit: note: {note}", file=sys.stderr)
    insight = Insight(options, comm)
    config = train_config(options)
    mlperf = MlperfLog(is_testing=is_testing(options)) if options.mlperf_logging else None
    if mlperf:
        mlperf.setup()
    use_threads(options.threads)
    warn_if_oversubscribed()
    comm = insight.traced(comm, get_threads())
    session = _build(options, comm)
    with ExitStack() as stack:
        logs_here = options.log_json and comm.rank == 0
        log = JsonLog(options.log_json, append=bool(options.resume)) if logs_here else None
        if log:
            stack.enter_context(log)
            tables = {"tables": session.model.store.placement}
            command = {"command": command_text(options.words, comm.size), "ranks": comm.size}
            log.start(_described(options, session.model.config) | command, machine_facts() | tables)
        if mlperf:
            _announce(mlperf, options, config, session.data)
        if not (options.set or _is_demo(options)):
            print("time/loss/accuracy (if enabled):", flush=True)
        if options.inference_only:
            _test(options, session, log)
            return DONE
        details = insight.start(session.model, comm, log, _ceilings)
        extra = [*details, *(o for o in (log, mlperf) if o)]
        return _train(options, config, session, insight, extra)


@dataclass(frozen=True)
class Session:
    """The model and the data of a run, the checkpoint it starts from and its progress."""

    model: Model
    data: Data
    start: RunState
    source: str
    progress: Mapping[str, Any]


def _check_outputs(options: Options, comm: Comm) -> None:
    """Refuse, before anything is computed, outputs that cannot be written or are inputs."""
    path = options.save_model or options.resume
    if path:
        check_save_path(path)
        if comm.rank == 0:
            refuse_held_destination(path)
    if options.log_json and comm.rank == 0:
        _check_log(options)


def _check_log(options: Options) -> None:
    log, models = Path(options.log_json), (options.save_model, options.resume, options.load_model)
    for model in filter(None, models):
        if log.resolve() == Path(model).resolve():
            raise ConfigError(f"--log-json and the model cannot both be {options.log_json}")
        if log.resolve().parent == Path(model).resolve():
            raise ConfigError(
                f"--log-json: {log} is in the directory of the model, which is replaced as a "
                "whole; write the log next to it"
            )
    try:
        check_log(log, is_json_log)
    except (ConfigError, OSError) as error:
        raise ConfigError(f"--log-json: {error}") from None


def _build(options: Options, comm: Comm) -> Session:
    """Build the data, then the model: both draw from one stream, in the reference's order."""
    if not options.set:
        demo = "The demo: a small model on generated Criteo-like data"
        print(demo if _is_demo(options) else "Using CPU...", flush=True)
    sharded = distributed.is_sharded(options, comm)
    path = checkpoint_of(options, comm)
    if path:
        options = with_saved_architecture(options, path)
    if options.data_generation != "dataset" and not sharded:
        early = model_config(options, options.arch_embedding_size)
        require_memory(early, options, available_memory())
    rng = np.random.RandomState(options.numpy_rand_seed)
    data = make_data(options, rng)
    check_lists(options, data)
    check_column_rates(options, data)
    is_known = path and options.model == "dlrm" and not options.has_parts
    fitted = options if is_known else fit_architecture(options, data.train)
    if line := derived_line(options, fitted):
        print(line, flush=True)
    architecture = model_config(
        fitted, data.train.table_rows, data.train.dense_features, column_names(data.train)
    )
    if options.save_model and is_torch(options.save_model):
        check_torch_export(architecture, options.save_model)
    if not sharded:
        require_memory(architecture, options, available_memory())
        _compile_ahead(options, architecture)
    if options.set:
        print(start_lines(options, data), flush=True)
        print_scale_notes(options.set, data)
    if options.debug_mode:
        _print_setup(options, architecture, data)
    model = distributed.make_model(architecture, options, comm, rng, initialise=not path)
    if options.sparse_init_scale != 1 and not path:
        model.scale_tables(options.sparse_init_scale)
    if options.linear_start and not path:
        start_from_solution(model, data.train, comm)
    progress = restore(model, path) if path else {}
    start = restored_state(progress, data.train) if path else RunState()
    note_other_batches(progress, data.train.num_batches)
    require_agreement(comm, model_facts(model, data, start), "build")
    if options.debug_mode:
        debug.print_parameters(model, "initial")
    return Session(model, data, start, path, progress)


def _is_demo(options: Options) -> bool:
    """Return whether neither data nor a model to imitate was given: no line is the reference's."""
    return options.base is not None and options.base.data_size is not None


def _compile_ahead(options: Options, config: AnyModelConfig) -> None:
    """Let other processes compile kernels too."""
    if not options.inference_only and get_backend(options.backend).name == "jit":
        compile_ahead(rehearsal_of(options, config))


def _print_setup(options: Options, architecture: AnyModelConfig, data: Data) -> None:
    np.set_printoptions(precision=options.print_precision)
    debug.print_model(architecture)
    debug.print_data(data.train)


def _described(options: Options, architecture: AnyModelConfig) -> dict[str, Any]:
    """Return all options and the model, for the log."""
    hidden = ("base", "given", "notes", "saved_nodes", "words")
    values = {name: value for name, value in vars(options).items() if name not in hidden}
    return {"options": values, "given": sorted(options.given), "model": architecture.to_dict()}


def _announce(mlperf: MlperfLog, options: Options, config: TrainConfig, data: Data) -> None:
    mlperf.ready()
    mlperf.hyperparameters(options.numpy_rand_seed, options.mini_batch_size, config)
    mlperf.samples(data.train.num_samples, data.test.num_samples)


def _train(
    options: Options,
    config: TrainConfig,
    session: Session,
    insight: Insight,
    extra: list[Observer],
) -> int:
    times, final = StepTimes(), FinalTest(options, session.data, extra)
    profile = insight.profile
    step = _training_step(options, config, session, insight)
    observers: list[Observer] = [_lines(options, session.data), times, final, *extra]
    path = options.save_model or options.resume
    saves = Saves(extra)
    checkpointer = _checkpointer(path, options, session, saves) if path else None
    with ExitStack() as stack:
        if distributed.is_main_rank(session.model):
            observers.append(_progress(session, stack))
        if isinstance(session.model, ShardedModel):
            stack.enter_context(resume_note(path, session.model.comm))
        result = _fit(options, config, session, insight, observers, step, checkpointer)
    if result.stopped_by:
        number = signal.Signals[result.stopped_by]
        print(stopped_line(result, path), file=sys.stderr)
        return SIGNALLED + number
    shown = profile if options.enable_profiling else None
    if options.set:
        print_verdict(options, session.model, session.data, result, final.metrics)
        if shown and session.model.backend.name == "jit":
            print(shown.table(session.model.config, _ceilings()))
    else:
        _print_results(options, session, result, times, shown)
    if line := saves.line(result.seconds):
        print(line)
    return DONE


def _progress(session: Session, stack: ExitStack) -> Observer:
    """Return a bar on a terminal, else a line a minute."""
    if sys.stderr.isatty():
        return stack.enter_context(ProgressBar(session.start.position))
    return ProgressLines(session.start.position)


def _fit(
    options: Options,
    config: TrainConfig,
    session: Session,
    insight: Insight,
    observers: list[Observer],
    step: TrainingStep | distributed.AnyShardedStep,
    checkpointer: Checkpointer | None,
) -> FitResult:
    return fit(
        session.model,
        insight.timed(
            distributed.sharded_source(session.model, insight.counted(session.data.train))
        ),
        config,
        test=session.data.test if is_testing(options) else None,
        observers=observers,
        start=session.start.position,
        best=session.start.best,
        plateau=session.start.plateau,
        tests_since_best=session.start.tests_since_best,
        step=step,
        measure=insight.measure(session.model),
        checkpointer=checkpointer,
    )


def _print_results(
    options: Options,
    session: Session,
    result: FitResult,
    times: StepTimes,
    profile: Profile | None,
) -> None:
    if options.debug_mode:
        debug.print_parameters(session.model, "updated")
    estimated = None
    if not isinstance(session.model, ShardedModel):
        estimated = estimated_memory(session.model.config, options).total
    placement = session.model.store.placement
    print(training_summary(result, times, machine_facts(), peak_rss_bytes(), estimated, placement))
    if isinstance(session.data.test, SyntheticSource):
        print(f"The best AUC possible on these data is {session.data.test.teacher_auc:.4f}")
    if isinstance(session.model, ShardedModel):
        print(distributed.communication_lines(session.model.comm, result.steps))
        if profile and session.model.backend.name == "jit":
            print(profile.table(session.model.config, _ceilings()))
    elif session.model.backend.name == "jit":
        _print_speed(times, profile, session.model.config)


def _checkpointer(path: str, options: Options, session: Session, saves: Saves) -> Checkpointer:
    _require_space(path, session.model)
    checkpointer = Checkpointer(
        path,
        options.save_every,
        keep=options.keep,
        progress={"nbatches_test": session.data.test.num_batches},
        on_save=saves.announce,
        on_saved=saves.add,
    )
    if options.resume and session.source:
        checkpointer.continue_from(session.progress)
    return checkpointer


def _require_space(path: str, model: Model) -> None:
    """Refuse, before the training, a disk on which the model alone would not fit."""
    if not isinstance(model, ShardedModel):  # whose parameters are not all here
        needed = sum(array.nbytes for array in model.stored().values())
        require_space(Path(path), needed, "--save-model")


def _training_step(
    options: Options, config: TrainConfig, session: Session, insight: Insight
) -> TrainingStep | distributed.AnyShardedStep:
    """Return the step that trains on a batch, with the optimizer state of a loaded model."""
    model, profile = session.model, insight.profile
    adopt_preprocessing(model, session.data.train)  # which names columns
    step: TrainingStep | distributed.AnyShardedStep | None
    step = distributed.training_step(model, options, config, profile, insight.noise)
    if step is None:
        seed = options.numpy_rand_seed
        step = TrainingStep(model, config.optimizer, config.loss, profile, seed=seed)
    step.start_at(session.start.position.step)
    if session.source:
        strict = bool(options.resume)
        restore_optimizer(step.optimizer, session.model, session.source, strict=strict)
    return step


def _print_speed(times: StepTimes, profile: Profile | None, config: AnyModelConfig) -> None:
    """Print the share of the roofline that was reached; measures the ceilings now."""
    ceilings = _ceilings()
    if profile:
        print(profile.table(config, ceilings))
    line = times.roofline_line(config, ceilings)
    if line:
        print(line)


@functools.cache
def _ceilings() -> Ceilings:
    return Ceilings(**measure_ceilings(get_threads(), _CEILING_SECONDS))


def _lines(options: Options, data: Data) -> Observer:
    """Return what prints the progress: lines of the reference, or for ``train SET`` its own."""
    if not options.set:
        return _console(options)
    return SetLines("test" if data.test_is_final else "validation")


def _console(options: Options) -> ConsoleLines:
    return ConsoleLines(
        options.print_freq,
        is_testing=is_testing(options),
        with_time=options.print_time,
        with_clock=options.print_wall_time,
        with_mlperf=options.mlperf_logging,
    )


def _test(options: Options, session: Session, log: JsonLog | None) -> None:
    print("Testing for inference only", flush=True)
    began = time.perf_counter()
    measure = distributed.measure_function(session.model) or evaluate
    metrics = measure(session.model, session.data.test, threshold=options.loss_threshold)
    seconds = time.perf_counter() - began
    _console(options).print_metrics(metrics, Best(metrics.accuracy, metrics.auc))
    if log:
        log.evaluated(session.start.position.step, metrics, seconds, {})
        log.write("end", {"steps": 0, "seconds": seconds, "peak_rss_bytes": peak_rss_bytes()})
    print(metrics_summary(metrics))
    print(machine_line(machine_facts(), peak_rss_bytes()))
