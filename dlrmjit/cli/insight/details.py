"""Details of a run for its log and for TensorBoard: what happened, and why it was as fast.

They are collected on every rank, and the first one writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from dlrmjit.config.training import TrainConfig
from dlrmjit.data.access import AccessCounter, CountedSource
from dlrmjit.data.source import SizedSource, Source
from dlrmjit.metrics import Metrics
from dlrmjit.model.model import Model
from dlrmjit.optim.clipping import SquaredNorms
from dlrmjit.parallel.comm import Comm, exchange_json
from dlrmjit.perf.calibration import BINS, calibration_bins, calibration_sums
from dlrmjit.perf.profile import Gradients, Profile, Update
from dlrmjit.perf.roofline import Ceilings, step_traffic
from dlrmjit.progress.memory import peak_rss_bytes, rss_bytes
from dlrmjit.training.events import FitResult, NullObserver, StepRecord, TestRecord

NORMS_EVERY = 10  # steps between two norms of the gradient
_SAMPLED_ROWS, _SAMPLED_RUNS = 256, 16  # rows of a table whose norms are measured

Measure = Callable[..., Metrics]


class Sink(Protocol):
    """Receives events: the JSON log, TensorBoard."""

    def write(self, event: str, fields: Mapping[str, Any]) -> None:
        """Write one event."""


class DetailedProfile(Profile):
    """A profile that also measures the norm of the gradient, every :data:`NORMS_EVERY` steps.

    That of tables on other ranks is not included, nor of any table if there are several ranks.
    """

    def with_norms(self, model: Model) -> DetailedProfile:
        """Measure the gradients of ``model``; return this profile."""
        self._squares, self.gradient = SquaredNorms(model.backend), {"mlp": 0.0, "tables": 0.0}
        return self

    @property
    def is_due(self) -> bool:
        """Whether the norm of the current step is measured."""
        return self.steps % NORMS_EVERY == 0

    def timed_update(self, apply: Update) -> Update:
        """Return the same update, timed, and measured before it."""
        timed = super().timed_update(apply)

        def measured(gradients: Gradients, rate: float) -> None:
            if self.is_due:
                for parameter, gradient in gradients:
                    part = "tables" if parameter.is_sparse else "mlp"
                    self.gradient[part] += self._squares(parameter, gradient)
            timed(gradients, rate)

        return measured

    def norms(self) -> dict[str, float]:
        """Return the norms of the last step that was measured, and begin again."""
        found = {part: float(np.sqrt(squares)) for part, squares in self.gradient.items()}
        self.gradient = dict.fromkeys(self.gradient, 0.0)
        return found


class RunDetails(NullObserver):
    """Collects the details of a run, and writes them to ``sinks``, which only one rank has.

    ``measure_ceilings`` is called at the end, for the roofline of operations.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        comm: Comm,
        profile: DetailedProfile,
        measure: Measure,
        measure_ceilings: Callable[[], Ceilings] | None,
        estimated_bytes: int | None = None,
    ) -> None:
        self._sinks, self._comm, self._profile = sinks, comm, profile
        self._measure, self._measure_ceilings = measure, measure_ceilings
        self._estimated = estimated_bytes
        self._counter: AccessCounter | None = None
        self._model: Model | None = None
        self._sums = np.zeros((3, BINS))
        self._first: Profile | None = None

    def counted(self, source: Source) -> Source:
        """Return a source of the same batches whose lookups are counted."""
        if not isinstance(source, SizedSource):
            return source
        self._counter = AccessCounter(source.table_rows)
        return CountedSource(source, self._counter)

    def measure(self, model: Any, source: Any, *, threshold: float) -> Metrics:
        """Return the metrics, and collect the calibration."""
        sums = np.zeros((3, BINS))

        def add(scores: Any, targets: Any) -> None:
            sums[...] += calibration_sums(np.asarray(scores).reshape(-1), targets.reshape(-1))

        metrics = self._measure(model, source, threshold=threshold, on_scores=add)
        self._comm.allreduce(sums.reshape(-1), name="metrics").wait()
        self._sums = sums
        return metrics

    def on_start(self, model: Model, batches: int, config: TrainConfig) -> None:
        """Measure the norms of the initial parameters."""
        self._model = model
        self._write("norms", {"step": 0, **self._parameter_norms(model)})

    def on_step(self, record: StepRecord) -> None:
        """Write the norm of the gradient of the step, if it was measured."""
        if self._first is None:  # which compiles kernels
            self._first = self._profile.copy()
        if (self._profile.steps - 1) % NORMS_EVERY == 0:
            self._write("gradient", {"step": record.step, **self._profile.norms()})

    def on_test(self, record: TestRecord) -> None:
        """Write calibration, norms of the parameters, and memory."""
        bins = [asdict(one) for one in calibration_bins(self._sums)]
        self._write("calibration", {"step": record.step, "bins": bins})
        if self._model is not None:
            self._write("norms", {"step": record.step, **self._parameter_norms(self._model)})
        self._write("memory", {"step": record.step, "rss_bytes": rss_bytes()})

    def on_end(self, result: FitResult) -> None:
        """Write lookups, operations, ranks and memory; all ranks come here."""
        if self._counter is not None:
            tables = [asdict(table) for table in self._counter.tables()]
            counted = {"batches": self._counter.batches, "samples": self._counter.samples}
            self._write("access", {**counted, "tables": tables})
        profile = self._timed()
        self._write_ranks(profile)
        if profile.steps:
            self._write("operations", self._operations(profile))
        peak = {"peak_rss_bytes": peak_rss_bytes(), "estimated_bytes": self._estimated}
        self._write("memory", {"step": result.position.step, "rss_bytes": rss_bytes(), **peak})

    def _timed(self) -> Profile:
        """Return the profile without the first step, unless there is no other."""
        if self._first is None or self._profile.steps == self._first.steps:
            return self._profile
        return self._profile.since(self._first)

    def _write_ranks(self, profile: Profile) -> None:
        steps = max(profile.steps, 1)
        clocks = {name: 1e3 * c.seconds / steps for name, c in profile.clocks.items()}
        waiting = {n.partition(": ")[2]: ms for n, ms in clocks.items() if n.startswith("waiting")}
        about = {
            "rank": self._comm.rank,
            "compute_ms": sum(ms for n, ms in clocks.items() if not n.startswith("waiting")),
            "waiting_ms": waiting,
            "sent_bytes": self._comm.traffic.sent,
            "samples_per_step": profile.samples / steps,
            "lookups_per_step": profile.lookups / steps,
            "peak_rss_bytes": peak_rss_bytes(),
        }
        self._write("ranks", {"ranks": exchange_json(self._comm, about)})

    def _operations(self, profile: Profile) -> dict[str, Any]:
        """Return the operations of the first rank; their ceilings, if those can be measured."""
        assert self._model is not None
        ceilings = self._measure_ceilings() if self._measure_ceilings else None
        lines = profile.lines(self._model.config, ceilings or Ceilings(1.0, 1.0))
        samples, lookups = profile.samples // profile.steps, profile.lookups // profile.steps
        moved = step_traffic(self._model.config, samples, lookups)
        rows = [{**asdict(line), "least_bytes": moved.get(line.name)} for line in lines]
        if ceilings is None:
            rows = [{**row, "of_ceiling": None} for row in rows]
        return {
            "steps": profile.steps,
            "lines": rows,
            "ceilings": asdict(ceilings) if ceilings else None,
        }

    def _parameter_norms(self, model: Model) -> dict[str, Any]:
        """Return the norm of every dense parameter, and the mean norm of rows of every table."""
        dense = {name: _norm(values) for name, values in model.dense_state().items()}
        tables = [_mean_row_norm(values) for values in model.store.values()]
        return {"dense": dense, "tables": tables}

    def _write(self, event: str, fields: Mapping[str, Any]) -> None:
        for sink in self._sinks:
            sink.write(event, fields)


def _norm(values: Any) -> float:
    return float(np.linalg.norm(np.asarray(values, dtype=np.float64)))


def _mean_row_norm(values: Any) -> float:
    """Return the mean norm of rows of a table, of some if there are many."""
    blocks = [np.asarray(values[part], dtype=np.float64) for part in _runs(values.shape[0])]
    norms = np.linalg.norm(np.concatenate(blocks), axis=1)
    return float(norms.mean()) if len(norms) else 0.0


def _runs(rows: int) -> Iterator[slice]:
    """Yield slices of all rows of a small table, of runs of rows of a large one."""
    if rows <= _SAMPLED_ROWS * _SAMPLED_RUNS:
        yield slice(0, rows)
        return
    for i in range(_SAMPLED_RUNS):
        first = i * (rows - _SAMPLED_ROWS) // (_SAMPLED_RUNS - 1)
        yield slice(first, first + _SAMPLED_ROWS)
