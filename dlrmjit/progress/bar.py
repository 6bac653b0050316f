"""A progress bar on the standard error: how a run goes, and its remaining time."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from dlrmjit.config.training import TrainConfig
from dlrmjit.model.model import Model
from dlrmjit.progress.pace import Pace
from dlrmjit.training.events import START
from dlrmjit.training.fit import NullObserver, Position, StepRecord, TestRecord

_REFRESH_SECONDS = 0.2


class ProgressBar(NullObserver):
    """Shows the progress of a run from ``start``; a context manager that removes the bar.

    Lines printed meanwhile appear above the bar when they go to the same terminal; otherwise
    the standard output is left alone.
    """

    def __init__(self, start: Position = START, console: Console | None = None) -> None:
        self._shown = 0.0
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._progress.add_task("", epoch="", values="")
        self._pace = Pace(start)

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def on_start(self, model: Model, batches: int, config: TrainConfig) -> None:
        """Set the length of the bar."""
        self._pace.begin(batches, config)
        self._progress.update(self._task, total=self._pace.total, completed=self._pace.done)

    def on_step(self, record: StepRecord) -> None:
        """Advance, and redraw a few times a second."""
        self._pace.add(record)
        if time.monotonic() - self._shown < _REFRESH_SECONDS and not record.is_last_of_epoch:
            return
        self._shown = time.monotonic()
        self._progress.update(
            self._task,
            completed=self._pace.done,
            epoch=record.epoch,
            values=self._pace.values(),
            refresh=True,
        )

    def on_test(self, record: TestRecord) -> None:
        """Show the AUC from now on."""
        self._pace.auc = record.metrics.auc
