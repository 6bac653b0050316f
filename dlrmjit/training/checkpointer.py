"""Saves a run while it trains, and finds where it continues.

The best model of the tests is at the path that the user names. The state of the run goes there too
as long as no test has put a model there, otherwise next to it (``PATH.step-000000500``). A run that
continues takes the newest of them, so the same command serves to start and to continue.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from dlrmjit.checkpoint import hold_destination
from dlrmjit.checkpoint.preprocessing_files import check_vocabularies
from dlrmjit.checkpoint.step_files import (
    bytes_of,
    clear_abandoned_states,
    is_saved,
    is_whole,
    remove_state,
    step_path,
    step_paths,
)
from dlrmjit.config.interval import Interval
from dlrmjit.config.training import TrainConfig
from dlrmjit.data.source import Source, stateful
from dlrmjit.errors import CheckpointError, ConfigError, DlrmjitError
from dlrmjit.files import WorkFolder
from dlrmjit.metrics import Metrics, RankingMetrics
from dlrmjit.model.model import Model
from dlrmjit.optim import Optimizer, Plateau
from dlrmjit.parallel.comm import exchange_json
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.training import persistence
from dlrmjit.training.agreement import Agreement
from dlrmjit.training.background_save import BackgroundSave, Snapshot
from dlrmjit.training.events import (
    Best,
    FitResult,
    Moment,
    NullObserver,
    Position,
    RunState,
    StepRecord,
    TestRecord,
)
from dlrmjit.training.nonfinite import check_weights
from dlrmjit.training.persistence import progress_of
from dlrmjit.training.saved_architecture import PathLike
from dlrmjit.training.saved_runs import BEST, LAST, kind_in, newest, run_of
from dlrmjit.training.signals import StopSignals

_SPARE = 1.25  # times as long as the last save the next one may take
_BEST_RESULTS = ("best_accuracy", "best_auc", "best_logloss", "best_ndcg")
NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class SaveRecord:
    """One save: where, after how many steps, the bytes, and how long the training paused for it."""

    path: str
    step: int
    bytes: int
    seconds: float


class Checkpointer(NullObserver):
    """Saves the best model of the tests, and the state of the run at intervals and when asked.

    ``has_best`` says whether the best model of the tests is at the path.

    Parameters
    ----------
    path : a directory, or a file ending in ``.pt``
    every : how often the state is saved, in steps (500) or time ("10min"); None: only after tests
        and at the end
    keep : number of states that are kept next to the best model. With more than one, states are
        never saved at ``path`` itself before the end
    signals : whether SIGTERM, SIGINT and SIGUSR1 end the run after its current step, saved
    progress : more values to be saved, ready for JSON
    on_save, on_saved : called before and after each save, with the path and with its record
    """

    def __init__(
        self,
        path: PathLike,
        every: Interval | int | str | None = None,
        *,
        keep: int = 1,
        signals: bool = True,
        progress: Mapping[str, Any] = NOTHING,
        on_save: Callable[[str], None] = lambda path: None,
        on_saved: Callable[[SaveRecord], None] = lambda record: None,
    ) -> None:
        if keep < 1:
            raise ConfigError(f"at least 1 state must be kept, not {keep}")
        self._path, self._keep = Path(path), keep
        self._every = None if every is None else Interval.of(every)
        self._signals = StopSignals() if signals else None
        self._on_save, self._on_saved = on_save, on_saved
        self._more: dict[str, Any] = dict(progress)
        self._reset()

    def _reset(self) -> None:
        """Forget the run that was observed; the next one is another."""
        self._held: WorkFolder | None = None
        self._run, self.has_best = secrets.token_hex(4), False
        self._results: dict[str, Any] = {"test_acc": 0.0}
        self._continued_at: int | None = None
        self._last: StepRecord | None = None
        self._moment: Moment | None = None
        self._improved = self._has_tested = False
        self._saved_at = (-1, "")
        is_timed = self._every is not None and self._every.seconds > 0
        self._snapshot = Snapshot() if is_timed else None
        self._step = 0  # of the last moment
        self._unsaved: tuple[BackgroundSave, SaveRecord, Callable[[], None]] | None = None
        self._lead = lead_of(math.inf, self._every)

    def begin(
        self,
        model: Model,
        config: TrainConfig,
        train: Source,
        test: Source | None,
        optimizer: Optimizer | None,
    ) -> None:
        """Start observing a run; :func:`~dlrmjit.fit` calls this."""
        self._model, self._optimizer = model, optimizer
        self._reduces = config.plateau is not None
        self._lengths = {
            "nepochs": config.epochs,
            "nbatches": train.num_batches,
            "nbatches_test": test.num_batches if test is not None else 0,
        }
        comm = model.comm if isinstance(model, ShardedModel) else None
        self._agreement = Agreement(comm)
        if comm is None or comm.rank == 0:
            try:
                check_vocabularies(model.preprocessing)
                self._held = hold_destination(self._path)
            except BaseException:
                self._release()  # a run that was to be continued is not the next one
                raise

    def __enter__(self) -> Checkpointer:
        self._saved_time = time.monotonic()
        try:
            if self._held:
                clear_abandoned_states(self._path)
                if self._continued_at is not None:
                    self._remove_old_states(self._continued_at, least=1)
        except BaseException:  # Ctrl-C among them
            self._release()
            raise
        if self._signals:
            self._signals.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with suppress(CheckpointError) if kind else nullcontext():  # the first error counts
                self._complete()
            if kind is None:
                self._agreement.finish()
        finally:
            if self._signals:
                self._signals.__exit__(kind, error, trace)
            self._release()

    def _release(self) -> None:
        """Let others save at the path, and forget the run."""
        if self._held:
            self._held.remove()
        self._reset()

    def find(self, model: Model) -> Path | None:
        """Return the newest checkpoint of the run, None without one; all ranks call this."""
        if not isinstance(model, ShardedModel):
            return newest(self._path)
        found = newest(self._path) if model.comm.rank == 0 else None
        name = exchange_json(model.comm, None if found is None else str(found))[0]
        return None if name is None else Path(name)

    def restore_model(self, model: Model, train: Source) -> RunState | None:
        """Load the newest checkpoint; return where the run continues, None if there is none."""
        self._source = self.find(model)
        if self._source is None:
            return None
        progress = persistence.restore(model, self._source)
        self.continue_from(progress)
        return restored_state(progress, train)

    def restore_optimizer(self, model: Model, step: Any) -> None:
        """Load the state of a training step's optimizer from the checkpoint of the model."""
        if self._source is not None:
            persistence.restore_optimizer(step.optimizer, model, self._source)

    def continue_from(self, progress: Mapping[str, Any]) -> None:
        """Save the run that ``progress`` describes on: what is at the path belongs to it."""
        self._run = str(progress.get("run", self._run))
        self._continued_at = self._step = int(progress.get("step", 0))
        best = {"test_acc", "test_auc", "test_ndcg", *_BEST_RESULTS} & set(progress)
        self._results |= {name: progress[name] for name in best}
        there = progress_of(self._path) if is_saved(self._path) else {"kind": LAST}
        is_ours = there.get("run") == progress.get("run")
        self.has_best = is_ours and kind_in(there) == BEST

    def restore_best(self, model: Model) -> int | None:
        """Load the best model of the tests of an earlier run, if it is saved; return its step."""
        self._complete()
        if not self.has_best:
            return None
        return int(persistence.restore(model, self._path).get("step", 0))

    def on_step(self, record: StepRecord) -> None:
        """Note the loss and the learning rate."""
        self._last = record

    def on_test(self, record: TestRecord) -> None:
        """Note the results, to be saved when all observers have them."""
        self._has_tested, self._improved = True, record.improved or self._improved
        self._results |= _test_results(record.metrics, record.best)

    def on_moment(self, moment: Moment) -> None:
        """Save what is due: the best model, the state of the run, or both because of a signal."""
        self._moment = moment
        self._go_on()
        if self._improved:
            self._save(self._path, BEST)
            self.has_best, self._improved = True, False
        received = self._signals.received if self._signals else None
        number, is_due = self._agreement.exchange(received, self._is_time())
        is_step = self._is_step(moment.step)
        is_due = is_due or is_step
        if number is not None:
            self._save_state(at_path=True)
            moment.request_stop(number.name)
        elif is_due:
            self._save_state()
        if is_step:
            self._complete()  # a kill loses no more steps than that
        self._step = moment.step

    def on_end(self, result: FitResult) -> None:
        """Save the final model of a run without a best one, the final state of one that has it."""
        if not result.steps or self._moment is None:
            return
        if not (self._has_tested and self.has_best):
            if result.restored_step is not None:
                self._saved_at = (-1, "")  # a state of this step has other parameters
            self._save(self._path, LAST if result.restored_step is None else BEST)
        elif self._every is not None and result.restored_step is None:
            self._save_state()

    def _is_step(self, step: int) -> bool:
        """Return whether a state is saved after this step; all ranks know.

        With updates from several batches, the step may be some later than the interval says.
        """
        every = self._every.steps if self._every else 0
        return every > 0 and step // every > self._step // every

    def _go_on(self) -> None:
        """Complete a save that is done, or that takes as long as the next one may."""
        if self._unsaved is None:
            return
        save, record, _ = self._unsaved
        if save.is_done or 0 < self._lead <= record.seconds + save.age:
            self._complete()

    def _is_time(self) -> bool:
        """Return whether the time for a save has come on this rank.

        The disk is slower than the training, so a save begins earlier by what it may take.
        """
        every = self._every.seconds if self._every else 0.0
        return 0 < every - self._lead <= time.monotonic() - self._saved_time

    def _save_state(self, *, at_path: bool = False) -> None:
        """Save the state of the run: at the path unless the best model is there."""
        assert self._moment is not None
        is_free = not self.has_best and (at_path or self._keep == 1)
        path = self._path if is_free else step_path(self._path, self._moment.step)
        step = self._moment.step
        is_main = not isinstance(self._model, ShardedModel) or self._model.comm.rank == 0
        self._save(path, LAST, lambda: self._remove_old_states(step) if is_main else None)

    def _remove_old_states(self, step: int, least: int = 0) -> None:
        """Remove states: half removed ones, those of earlier runs, and all but the last of this."""
        states = step_paths(self._path)
        whole = [s for s in states if s <= step and is_whole(states[s])]
        runs = {s: run_of(states[s]) for s in whole}
        ours = [s for s in whole if runs[s] == self._run]
        wanted = max(least, self._keep if self.has_best or self._keep > 1 else 0)
        kept = {*ours[len(ours) - min(wanted, len(ours)) :], *(s for s in whole if not runs[s])}
        for old in states.keys() - kept:
            with suppress(OSError, DlrmjitError):  # the next save tries again
                remove_state(states[old])

    def _save(self, path: Path, kind: str, then: Callable[[], None] = lambda: None) -> None:
        """Save; ``then`` is called when the new checkpoint is durable, before the next save."""
        self._complete()
        assert self._moment is not None
        step = self._moment.step
        if self._saved_at in ((step, str(path)), (step, str(self._path))):
            self._saved_time = time.monotonic()
            then()
            return
        began = time.monotonic()
        check_weights(self._model, step, tables=True)
        self._on_save(str(path))
        progress = self._progress(self._moment.state(), kind)
        finish = persistence.begin_save(
            self._model,
            path,
            progress=progress,
            optimizer=self._optimizer,
            snapshot=self._snapshot,
        )
        self._saved_at, self._saved_time = (step, str(path)), began
        record = SaveRecord(str(path), step, 0, time.monotonic() - began)
        self._unsaved = (BackgroundSave(finish), record, then)

    def _complete(self) -> None:
        """Wait until the disk has the last save; do what follows."""
        if self._unsaved is None:
            return
        (save, record, then), self._unsaved = self._unsaved, None
        save.wait()
        self._lead = lead_of(record.seconds + save.seconds, self._every)
        self._on_saved(replace(record, bytes=bytes_of(Path(record.path))))
        then()

    def _progress(self, state: RunState, kind: str) -> dict[str, Any]:
        """Return the progress under the reference's names, and what it does not have."""
        at = state.position
        is_new_epoch = at.batch == 0 and at.epoch > 0
        progress = {
            **self._lengths,
            "epoch": at.epoch - 1 if is_new_epoch else at.epoch,
            "iter": self._lengths["nbatches"] if is_new_epoch else at.batch,
            "step": at.step,
            "train_loss": self._last.loss if self._last else 0.0,
            "total_loss": 0.0,
            "learning_rate": self._last.learning_rate if self._last else 0.0,
            **self._results,
            **self._more,
            "run": self._run,
            "kind": kind,
        }
        if self._reduces:
            progress["plateau"] = list(astuple(state.plateau))
        if state.tests_since_best:
            progress["tests_since_best"] = state.tests_since_best
        return progress if state.data is None else {**progress, "data": state.data}


def lead_of(took: float, every: Interval | None) -> float:
    """Return the seconds that the next save may take if the last one ``took`` so long.

    It begins as much before its time; that is at most half the interval, and 0 without a time.
    """
    return min(_SPARE * took, every.seconds / 2) if every else 0.0


def restored_state(progress: Mapping[str, Any], train: Source) -> RunState:
    """Return where the run of ``progress`` continues; restore the state of a source that has one.

    Raises CheckpointError for a position that these data do not have.
    """
    state = state_of(progress, train.num_batches)
    source = stateful(train)
    if source is not None and state.data is not None:
        source.restore(state.data)
    return state


def state_of(progress: Mapping[str, Any], batches: int) -> RunState:
    """Return where a run continues, given the progress of a checkpoint of either program.

    ``batches`` is the number of batches of an epoch: a run saved after the last of them continues
    with the next epoch.
    """
    try:
        epoch, batch = int(progress.get("epoch", 0)), int(progress.get("iter", 0))
        step = int(progress.get("step", epoch * int(progress.get("nbatches", batches)) + batch))
        is_done = batch >= batches
        position = Position(epoch + 1, 0, step) if is_done else Position(epoch, batch, step)
        accuracy = progress.get("best_accuracy", progress.get("test_acc", 0.0))
        auc = progress.get("best_auc", progress.get("test_auc", 0.0))
        saved = progress.get("plateau")
        return RunState(
            position,
            Best(
                float(accuracy),
                float(auc),
                float(progress.get("best_logloss", math.inf)),
                float(progress.get("best_ndcg", 0.0)),
            ),
            Plateau(*saved) if saved else Plateau(),
            int(progress.get("tests_since_best", 0)),
            progress.get("data"),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"the saved progress is not that of a run: {error}") from None


def _test_results(metrics: Metrics, best: Best) -> dict[str, float]:
    results = {
        "test_acc": metrics.accuracy,
        "test_auc": metrics.auc,
        "best_accuracy": best.accuracy,
        "best_auc": best.auc,
        "best_logloss": best.logloss,
    }
    if isinstance(metrics, RankingMetrics):
        results |= {"test_ndcg": metrics.ndcg, "best_ndcg": best.ndcg}
    return {name: value for name, value in results.items() if math.isfinite(value)}
