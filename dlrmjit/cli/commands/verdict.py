"""What ``dlrmjit train SET`` finds: the last test, baselines to compare with, signs of trouble."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dlrmjit.cli.build import distributed
from dlrmjit.cli.build.data import Data
from dlrmjit.cli.options.parse import Options
from dlrmjit.cli.report.json_log import JsonLog
from dlrmjit.cli.report.set_lines import metric_text
from dlrmjit.config.recipe import recipe
from dlrmjit.config.training import TrainConfig
from dlrmjit.data.prepared.manifest import Manifest
from dlrmjit.data.source import Source
from dlrmjit.metrics import Metrics, RankingMetrics
from dlrmjit.model.model import Model
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.training.baseline import any_order, base_rate, logistic_regression
from dlrmjit.training.events import FitResult
from dlrmjit.training.fit import NullObserver, Observer, evaluate
from dlrmjit.training.health import dead_layers, scale_notes, score_notes


class FinalTest(NullObserver):
    """Measures the final parameters of a run on rows that no test has seen, before the log ends."""

    def __init__(self, options: Options, data: Data, observers: Sequence[Observer]) -> None:
        self._options, self._data = options, data
        self._logs = [observer for observer in observers if isinstance(observer, JsonLog)]
        self._model: Model | None = None
        self.metrics: Metrics | None = None

    def on_start(self, model: Model, batches: int, config: TrainConfig) -> None:
        """Record the model."""
        self._model = model

    def on_end(self, result: FitResult) -> None:
        """Measure, and write to the log."""
        source = None if self._data.test_is_final else self._data.final
        if source is None or self._model is None:
            return
        began = time.perf_counter()
        measure = distributed.measure_function(self._model) or evaluate
        self.metrics = measure(self._model, source, threshold=self._options.loss_threshold)
        seconds = time.perf_counter() - began
        for log in self._logs:
            log.evaluated(result.position.step, self.metrics, seconds, {"split": "test"})


def print_scale_notes(path: str, data: Data) -> None:
    """Print notes on dense columns of a set whose values hinder training."""
    batch = next(iter(data.test.batches()), None)
    notes = scale_notes(batch.dense, Manifest.read(Path(path)).dense) if batch else []
    for note in notes:
        print(f"dlrmjit: note: {note}", file=sys.stderr)


def print_verdict(
    options: Options, model: Model, data: Data, result: FitResult, final: Metrics | None
) -> None:
    """Print steps, the test of the final parameters, baselines, and notes on what looks wrong."""
    if result.steps:
        rate = result.samples / result.step_seconds if result.step_seconds else 0.0
        print(f"Trained {result.steps:,} steps in {result.seconds:.1f} s, {rate:,.0f} rows/s")
    if result.skipped:
        print(f"{result.skipped:,} batches were skipped, because their loss was not finite")
    source, metrics = data.final_or_test or data.test, final or result.test
    if metrics is None or not source.num_samples:
        print("There are no rows to test on: prepare the set with a split, see prepare --help")
        return
    name = "validation" if source is data.test and not data.test_is_final else "test"
    print(f"On {source.num_samples:,} {name} rows: {metric_text(metrics)}")
    _print_baselines(options, data, source, metrics)
    for note in _notes(options, model, source):
        print(f"dlrmjit: note: {note}", file=sys.stderr)


def _print_baselines(options: Options, data: Data, test: Source, metrics: Metrics) -> None:
    if isinstance(metrics, RankingMetrics):
        print(f"Baseline, lists in any order: NDCG {any_order(test).ndcg:.4f}")
    if options.list_loss is None:
        base = base_rate(data.train, test)
        rate, found = f"the share of clicks {base.rate:.4f}", base.metrics
        compared = _compared(metrics.logloss, found.logloss)
        print(f"Baseline, {rate} for every row: {metric_text(found)}{compared}")
    if options.baseline == "logistic":
        settings = recipe(data.train.num_samples, epochs=options.nepochs)
        other = logistic_regression(data.train, data.test, test, settings)
        difference = metrics.auc - other.auc
        compared = "" if math.isnan(difference) else f"; the model's AUC is {difference:+.4f}"
        print(f"Baseline, logistic regression on the same rows: {metric_text(other)}{compared}")


def _compared(ours: float, baseline: float) -> str:
    if math.isnan(ours) or math.isnan(baseline) or baseline <= 0:
        return ""
    share = 100 * (1 - ours / baseline)
    if share <= 0:
        return f"; the model's log loss is {-share:.1f} % higher: it is no better than that"
    return f"; the model's log loss is {share:.1f} % lower"


def _notes(options: Options, model: Model, source: Source) -> list[str]:
    """Return signs that the model has not learned; none are looked for on many ranks."""
    batch = next(iter(source.batches()), None)
    if batch is None or isinstance(model, ShardedModel):
        return []
    notes = [
        f"all outputs of {name} are zero, so what is below it is not trained; a smaller "
        "--learning-rate or another --numpy-rand-seed helps"
        for name in dead_layers(model, batch)
    ]
    if options.list_loss is not None:
        return notes  # scores that order lists are no probabilities
    return notes + score_notes(np.asarray(model.predict_proba(batch)), batch.labels)
