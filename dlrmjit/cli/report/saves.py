"""The saves of a run: announced, logged and counted; and how a run continues that was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from dlrmjit.cli.report.json_log import JsonLog
from dlrmjit.training.checkpointer import SaveRecord
from dlrmjit.training.fit import FitResult, Observer


class Saves:
    """Prints the reference's line before each save, logs the save, and sums up what all cost."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._logs = [observer for observer in observers if isinstance(observer, JsonLog)]
        self._records: list[SaveRecord] = []

    def announce(self, path: str) -> None:
        """Print where the model is saved now."""
        print(f"Saving model to {path}", flush=True)

    def add(self, record: SaveRecord) -> None:
        """Record a save."""
        self._records.append(record)
        for log in self._logs:
            log.write("save", asdict(record))

    def line(self, seconds: float) -> str:
        """Return what the saves of a run of so many seconds cost; empty if there were none."""
        if not self._records:
            return ""
        paused = sum(record.seconds for record in self._records)
        size = self._records[-1].bytes
        return (
            f"{len(self._records)} saves, the last of {size:,} bytes: training paused for "
            f"{paused:.2f} s, {100 * paused / max(seconds, 1e-9):.2f} % of the run"
        )


def stopped_line(result: FitResult, path: str) -> str:
    """Return how to continue a run that a signal has stopped."""
    return (
        f"dlrmjit: stopped by {result.stopped_by} after step {result.position.step}, saved; "
        f"--resume={path} continues"
    )
