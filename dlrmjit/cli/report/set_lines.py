"""The lines of ``dlrmjit train SET``: what is trained, every test, and how good the model is."""

from __future__ import annotations

import math
import sys

from dlrmjit.cli.build.data import Data
from dlrmjit.cli.options.parse import Options
from dlrmjit.config.recipe import FACTORISED
from dlrmjit.config.training import TrainConfig
from dlrmjit.data.source import has_lists
from dlrmjit.metrics import Metrics, RankingMetrics
from dlrmjit.model.model import Model
from dlrmjit.training.fit import FitResult, NullObserver, StepRecord, TestRecord

_SHOWN_SKIPS = 5


class SetLines(NullObserver):
    """Prints a line for every test, with the mean training loss since the last one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._epochs, self._skipped = 1, 0
        self._loss, self._samples, self._seconds = 0.0, 0, 0.0

    def on_start(self, model: Model, batches: int, config: TrainConfig) -> None:
        """Record the number of epochs."""
        self._epochs = config.epochs

    def on_step(self, record: StepRecord) -> None:
        """Add to the means of the next line."""
        self._loss += record.loss * record.samples
        self._samples += record.samples
        self._seconds += record.seconds

    def on_test(self, record: TestRecord) -> None:
        """Print the result of a test."""
        mark = "  best so far" if record.improved else ""
        print(
            f"{self._place(record)}  step {record.step:,}  "
            f"{self._training()}{self._name} {metric_text(record.metrics)}{mark}",
            flush=True,
        )
        self._loss, self._samples, self._seconds = 0.0, 0, 0.0

    def _place(self, record: TestRecord) -> str:
        return f"epoch {record.epoch + 1}/{self._epochs}" if record.step else "start"

    def _training(self) -> str:
        if not self._samples:
            return ""
        rate = f"  {self._samples / self._seconds:,.0f} rows/s" if self._seconds else ""
        return f"training loss {self._loss / self._samples:.4f}{rate}  "

    def on_skip(self, step: int, cause: str) -> None:
        """Report the first batches that are skipped; the summary has their number."""
        self._skipped += 1
        if self._skipped <= _SHOWN_SKIPS:
            print(f"dlrmjit: note: skipped {cause}", file=sys.stderr)

    def on_end(self, result: FitResult) -> None:
        """Say why a run ended before its last epoch, and which parameters the model has."""
        if result.stopped_early:
            print(f"Tests have stopped improving: the run ends after step {result.position.step:,}")
        if result.restored_step is not None:
            step = f"{result.restored_step:,}"
            print(f"The model has the parameters of its best test, after step {step}")


def metric_text(metrics: Metrics) -> str:
    """Return NDCG of lists, AUC and log loss, or the accuracy of labels for which none is."""
    lists = {"NDCG": metrics.ndcg} if isinstance(metrics, RankingMetrics) else {}
    values = {**lists, "AUC": metrics.auc, "log loss": metrics.logloss}
    defined = [f"{name} {value:.4f}" for name, value in values.items() if not math.isnan(value)]
    return "  ".join(defined) or f"accuracy {metrics.accuracy * 100:.2f} %"


def start_lines(options: Options, data: Data) -> str:
    """Return what is trained, on how many rows and how, in two lines."""
    decay = ", decaying to 0" if options.lr_num_decay_steps else ""
    rows = f"{data.train.num_samples:,} training rows"
    rows += "" if data.test_is_final else f", {data.test.num_samples:,} for validation"
    if final := data.final_or_test:
        rows += f", {final.num_samples:,} for the test"
    tables = data.train.table_rows
    solved = "factorisation machine" if options.model in FACTORISED else "logistic regression"
    start = f", from a {solved}" if options.linear_start else ""
    return (
        f"{options.set}: {rows}; {data.train.dense_features} dense and {len(tables)} categorical "
        f"columns of {sum(tables):,} values\n"
        f"Model {options.model}{start}: tables of width {options.arch_sparse_feature_size}, "
        f"{options.optimizer} at {options.learning_rate:g}{decay}, batches of "
        f"{options.mini_batch_size:,}{' lists' * has_lists(data.train)}, at most "
        f"{options.nepochs} epochs"
    )
