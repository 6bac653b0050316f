"""What a run came to, in a few sentences for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlrmjit.fitting import FitResult
from dlrmjit.metrics import Metrics


def training_summary(result: FitResult, machine: Mapping[str, Any], peak_rss: int) -> str:
    """Steps, speed, loss, test result and machine of a training run, one line each."""
    lines = [_steps_line(result)]
    if result.steps:
        lines.append(f"Loss of the last batch: {result.last_loss:.6f}")
    if result.test is not None:
        lines.append(test_summary(result.test) + _best_text(result))
    return "\n".join([*lines, machine_line(machine, peak_rss)])


def test_summary(metrics: Metrics) -> str:
    """The result of a test in one line, without what is undefined for its labels."""
    values = {
        "AUC": f"{metrics.auc:.4f}",
        "log loss": f"{metrics.logloss:.4f}",
        "accuracy": f"{metrics.accuracy * 100:.3f} %",
    }
    found = ", ".join(f"{name} {text}" for name, text in values.items() if "nan" not in text)
    return f"Test on {metrics.samples:,} samples: {found}"


def machine_line(machine: Mapping[str, Any], peak_rss: int) -> str:
    """What computed, with how many threads, and the most memory it took."""
    return (
        f"{machine['cpu']}, {machine['isa']}, {machine['threads']} of {machine['cores']} CPUs; "
        f"peak memory {peak_rss / 2**20:,.0f} MiB"
    )


def _steps_line(result: FitResult) -> str:
    line = f"Trained {result.steps:,} steps, {result.samples:,} samples, in {result.seconds:.1f} s"
    if not result.step_seconds:
        return line
    return (
        f"{line}: {result.samples / result.step_seconds:,.0f} samples/s in the steps, "
        f"{1000 * result.step_seconds / result.steps:.2f} ms each"
    )


def _best_text(result: FitResult) -> str:
    """What to add where an earlier test was better than the last."""
    is_best = result.test is None or not result.best.auc > result.test.auc
    return "" if is_best else f" (best AUC {result.best.auc:.4f})"
