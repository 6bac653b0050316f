"""All that a run shows about itself, as its options ask: one value that the command holds."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from dlrmjit.advice import NoiseMeter
from dlrmjit.cli.build import distributed
from dlrmjit.cli.build.configs import estimated_memory
from dlrmjit.cli.insight import metrics_file, prometheus_file, tensorboard, trace_file
from dlrmjit.cli.insight.details import DetailedProfile, Measure, RunDetails, Sink
from dlrmjit.cli.insight.noise import NoiseReport
from dlrmjit.cli.options.parse import Options
from dlrmjit.cli.report.json_log import JsonLog
from dlrmjit.data.source import Source
from dlrmjit.errors import ConfigError
from dlrmjit.model.model import Model
from dlrmjit.parallel.comm import Comm
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.perf.profile import Profile
from dlrmjit.perf.roofline import Ceilings
from dlrmjit.training.events import Observer
from dlrmjit.training.fit import MeasureFunction, evaluate


class Insight:
    """The trace, the details, and the files of other programs that the options name."""

    def __init__(self, options: Options, comm: Comm) -> None:
        self._options, self.profile = options, None if not _wants_profile(options) else Profile()
        self._details: RunDetails | None = None
        self._trace: trace_file.TraceFile | None = None
        self.noise = NoiseMeter() if options.noise_scale else None
        _check(options, comm.rank == 0)

    def traced(self, comm: Comm, threads: int) -> Comm:
        """Return the communicator to train with."""
        if not self._options.trace:
            return comm
        first, count = self._options.trace_steps
        self._trace = trace_file.TraceFile(self._options.trace, first, count, threads)
        return self._trace.traced(comm)

    def start(
        self, model: Model, comm: Comm, log: JsonLog | None, ceilings: Callable[[], Ceilings]
    ) -> list[Observer]:
        """Prepare for a training of ``model``; return the observers of this rank."""
        options, observers, is_main = self._options, list[Observer](), comm.rank == 0
        board = tensorboard.TensorBoard(options.tensorboard) if self._has_board(is_main) else None
        if options.log_details or options.tensorboard:
            sinks: list[Sink] = [sink for sink in (log, board) if sink is not None]
            self._details = self._make_details(model, comm, sinks, ceilings)
            observers.append(self._details)
        elif self.profile is not None:
            self.profile = distributed.profile_of(model)
        if self._trace and self.profile:
            self.profile.listener = self._trace.listener
            observers.append(self._trace)
        if self.noise is not None and is_main:
            observers.append(NoiseReport(self.noise, log))
        if options.metrics and is_main:
            observers.append(metrics_file.MetricsFile(options.metrics))
        if options.prometheus and is_main:
            observers.append(prometheus_file.PrometheusFile(options.prometheus))
        return [*observers, *([board] if board else [])]

    def _has_board(self, is_main: bool) -> bool:
        return bool(self._options.tensorboard) and is_main

    def _make_details(
        self, model: Model, comm: Comm, sinks: list[Sink], ceilings: Callable[[], Ceilings]
    ) -> RunDetails:
        waited = distributed.profile_of(model).waited
        self.profile = profile = DetailedProfile(waited).with_norms(model)
        measure: Measure = distributed.measure_function(model) or evaluate
        is_jit = model.backend.name == "jit"
        estimated = None
        if not isinstance(model, ShardedModel):
            estimated = estimated_memory(model.config, self._options).total
        return RunDetails(sinks, comm, profile, measure, ceilings if is_jit else None, estimated)

    def counted(self, source: Source) -> Source:
        """Return the source of whole batches, counted if details are wanted."""
        return self._details.counted(source) if self._details else source

    def timed(self, source: Source) -> Source:
        """Return the source that a training reads, timed if there is a trace."""
        return self._trace.timed(source) if self._trace else source

    def measure(self, model: Model) -> MeasureFunction | None:
        """Return how to evaluate."""
        return self._details.measure if self._details else distributed.measure_function(model)


def command_text(words: Sequence[str], ranks: int) -> str:
    """Return the command of a run of so many ranks, as a shell reads it."""
    text = shlex.join(["python", "-m", "dlrmjit.train", *words])
    return text if ranks == 1 else f"mpiexec -n {ranks} {text}"


def _wants_profile(options: Options) -> bool:
    return bool(
        options.enable_profiling or options.log_details or options.tensorboard or options.trace
    )


def _check(options: Options, is_main: bool) -> None:
    """Refuse, before anything is computed, files that cannot be written."""
    if options.log_details and not options.log_json:
        raise ConfigError("--log-details adds to the log: give --log-json FILE, too")
    if _wants_profile(options) and options.reproducible is not None:
        raise ConfigError(
            "--enable-profiling, --log-details, --tensorboard and --trace cannot be combined with "
            "--reproducible; leave one out"
        )
    if options.noise_scale and (options.reproducible or 0) < 2:
        raise ConfigError(
            "--noise-scale compares the micro-batches of a batch: give --reproducible=V, too, "
            "with V at least 2"
        )
    if not is_main:
        return
    if options.trace:
        trace_file.check(options.trace)
    if options.metrics:
        metrics_file.check(options.metrics)
    if options.prometheus:
        prometheus_file.check(options.prometheus)
    if options.tensorboard:
        tensorboard.check_folder(Path(options.tensorboard))
