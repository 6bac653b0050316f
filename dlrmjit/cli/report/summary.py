"""The results of a run, in a few sentences for people."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from statistics import median
from typing import Any

from dlrmjit.config.model import AnyModelConfig
from dlrmjit.metrics import Metrics, RankingMetrics
from dlrmjit.perf.profile import fraction_of_roofline
from dlrmjit.perf.roofline import Ceilings
from dlrmjit.training.fit import FitResult, NullObserver, StepRecord


class StepTimes(NullObserver):
    """Records the time of each step to report the median.

    The mean would be dominated by the first step, in which kernels are compiled.
    """

    def __init__(self) -> None:
        self._seconds = array("d")
        self._rates = array("d")
        self._samples = 0
        self._lookups = 0

    def on_step(self, record: StepRecord) -> None:
        """Record a step."""
        self._seconds.append(record.seconds)
        self._samples += record.samples
        self._lookups += record.lookups
        self._rates.append(record.samples / record.seconds if record.seconds else 0.0)

    def describe(self) -> str:
        """Return the median time and rate; empty without steps."""
        if not self._seconds:
            return ""
        ms, rate = 1000 * median(self._seconds), median(self._rates)
        return f"; median step {ms:.2f} ms, {rate:,.0f} samples/s"

    def roofline_line(self, config: AnyModelConfig, ceilings: Ceilings) -> str:
        """Return the roofline time of a step as a share of the median step; empty without steps."""
        if not self._seconds:
            return ""
        steps = len(self._seconds)
        samples, lookups = self._samples // steps, self._lookups // steps
        seconds = median(self._seconds)
        share = fraction_of_roofline(config, samples, lookups, seconds, ceilings)
        return (
            f"The median step is at {100 * share:.1f} % of this machine's roofline "
            f"({ceilings.fma_peak_gflops:,.0f} GF/s, {ceilings.triad_gbs:.1f} GB/s)"
        )


def training_summary(
    result: FitResult,
    times: StepTimes,
    machine: Mapping[str, Any],
    peak_rss: int,
    estimated: int | None = None,
    placement: str = "",
) -> str:
    """Return steps, speed, loss, test result and machine of a training run, one line each."""
    lines = [_steps_line(result) + times.describe()]
    if result.steps:
        lines.append(f"Loss of the last batch: {result.last_loss:.6f}")
    if result.skipped:
        lines.append(f"{result.skipped:,} batches were skipped, because their loss was not finite")
    if result.test is not None:
        lines.append(metrics_summary(result.test) + _best_text(result))
    if result.restored_step is not None:
        lines.append(
            f"The parameters are those of the best test, after step {result.restored_step}"
        )
    tables = f"; tables on {placement}" if placement else ""
    return "\n".join([*lines, machine_line(machine, peak_rss, estimated) + tables])


def metrics_summary(metrics: Metrics) -> str:
    """Return the result of a test in one line, without metrics undefined for its labels."""
    lists = {"NDCG": f"{metrics.ndcg:.4f}"} if isinstance(metrics, RankingMetrics) else {}
    values = lists | {
        "AUC": f"{metrics.auc:.4f}",
        "log loss": f"{metrics.logloss:.4f}",
        "accuracy": f"{metrics.accuracy * 100:.3f} %",
    }
    defined = ", ".join(f"{name} {text}" for name, text in values.items() if "nan" not in text)
    return f"Test on {metrics.samples:,} samples: {defined}"


def machine_line(machine: Mapping[str, Any], peak_rss: int, estimated: int | None = None) -> str:
    """Return a line with the processor, its threads, and the peak memory of the run.

    ``estimated`` is the memory of the model and a step in bytes, without interpreter, compiler
    and data.
    """
    expected = f" (estimated for model and step: {_mib(estimated)})" if estimated else ""
    return (
        f"{machine['cpu']}, {machine['isa']}, {machine['threads']} of {machine['cores']} CPUs; "
        f"peak memory {_mib(peak_rss)}{expected}"
    )


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


def _steps_line(result: FitResult) -> str:
    return f"Trained {result.steps:,} steps, {result.samples:,} samples, in {result.seconds:.1f} s"


def _best_text(result: FitResult) -> str:
    """Return the best AUC as an addition, where an earlier test was better than the last."""
    is_best = result.test is None or not result.best.auc > result.test.auc
    return "" if is_best else f" (best AUC {result.best.auc:.4f})"
