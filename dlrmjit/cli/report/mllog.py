"""``--mlperf-logging``: the ``:::MLLOG`` lines that MLPerf's tools read."""

from __future__ import annotations

import json
import time
from typing import Any

from dlrmjit.config.training import ScheduleConfig, TrainConfig
from dlrmjit.model.model import Model
from dlrmjit.training.fit import FitResult, NullObserver, StepRecord, TestRecord


class MlperfLog(NullObserver):
    """Prints the events of a run.

    With ``is_testing`` a test follows the last step of every epoch, and the epoch ends after it.
    An observer is notified of an epoch after its first step and of a test after its end, so their
    starts are dated back by the time they took.
    """

    def __init__(self, *, is_testing: bool) -> None:
        self._is_testing = is_testing
        self._open_epoch: int | None = None

    def setup(self) -> None:
        """Print the events before anything is built."""
        self.event("cache_clear", True)
        self.start("init_start")

    def ready(self) -> None:
        """Print the events between building and training."""
        self.stop("init_stop")
        self.start("run_start")

    def hyperparameters(self, seed: int, batch_size: int, config: TrainConfig) -> None:
        """Print the events that describe how the model is trained."""
        schedule = config.schedule
        assert isinstance(schedule, ScheduleConfig)  # the command line makes no other
        self.event("submission_benchmark", "dlrm")
        self.event("seed", seed)
        self.event("global_batch_size", batch_size)
        self.event("gradient_accumulation_steps", config.batches_per_update)
        self.event("opt_base_learning_rate", config.learning_rate)
        self.event("opt_learning_rate_warmup_steps", schedule.warmup_steps)
        self.event("sgd_opt_base_learning_rate", config.learning_rate)
        self.event("lr_decay_start_steps", schedule.decay_start_step)
        self.event("sgd_opt_learning_rate_decay_steps", schedule.decay_steps)
        self.event("sgd_opt_learning_rate_decay_poly_power", 2)

    def samples(self, train: int, test: int | None) -> None:
        """Print the events that describe the size of the data."""
        self.event("train_samples", train)
        if test is not None:
            self.event("eval_samples", test)

    def on_start(self, model: Model, batches: int, config: TrainConfig) -> None:
        """Forget the epoch of an earlier run."""
        self._open_epoch = None

    def on_step(self, record: StepRecord) -> None:
        """Open an epoch with its first step, close it with its last unless a test follows."""
        if self._open_epoch != record.epoch:
            self._open_epoch = record.epoch
            self._epoch_starts(record)
        if record.is_last_of_epoch and not self._is_testing:
            self._epoch_stops()

    def on_test(self, record: TestRecord) -> None:
        """Report a test, and close the epoch after its last."""
        number = {"epoch_num": (record.batch + 1) / record.batches + record.epoch + 1}
        self.start("eval_start", number, seconds_ago=record.seconds)
        self.event("eval_accuracy", record.metrics.auc, number)
        self.stop("eval_stop", number)
        if record.batch + 1 == record.batches:
            self._epoch_stops()

    def on_end(self, result: FitResult) -> None:
        """Close open intervals and print whether the target was reached."""
        self._epoch_stops()
        self.stop("run_stop", {"status": "success" if result.reached_threshold else "aborted"})

    def _epoch_starts(self, record: StepRecord) -> None:
        first = {"first_epoch_num": record.epoch + 1, "epoch_count": 1}
        self.start("block_start", first, seconds_ago=record.seconds)
        self.start("epoch_start", {"epoch_num": record.epoch + 1}, seconds_ago=record.seconds)

    def _epoch_stops(self) -> None:
        if self._open_epoch is None:
            return
        self.stop("epoch_stop", {"epoch_num": self._open_epoch + 1})
        self.stop("block_stop", {"first_epoch_num": self._open_epoch + 1})
        self._open_epoch = None

    def event(self, key: str, value: Any, metadata: dict[str, Any] | None = None) -> None:
        """Print a point in time."""
        _emit("POINT_IN_TIME", key, value, metadata)

    def start(
        self, key: str, metadata: dict[str, Any] | None = None, seconds_ago: float = 0.0
    ) -> None:
        """Print the start of an interval."""
        _emit("INTERVAL_START", key, None, metadata, seconds_ago)

    def stop(self, key: str, metadata: dict[str, Any] | None = None) -> None:
        """Print the end of an interval."""
        _emit("INTERVAL_END", key, None, metadata)


def _emit(
    kind: str, key: str, value: Any, metadata: dict[str, Any] | None, seconds_ago: float = 0.0
) -> None:
    line = {
        "namespace": "",
        "time_ms": int(1000 * (time.time() - seconds_ago)),
        "event_type": kind,
        "key": key,
        "value": value,
        "metadata": metadata or {},
    }
    print(f":::MLLOG {json.dumps(line)}", flush=True)
