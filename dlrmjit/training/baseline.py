"""What a trained model has to be better than: the share of clicks, and a logistic regression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlrmjit.architecture.families import lr
from dlrmjit.config.recipe import Recipe
from dlrmjit.config.training import LossConfig, ScheduleConfig, TrainConfig
from dlrmjit.data.list_batch import offsets_of
from dlrmjit.data.source import Source
from dlrmjit.metrics import Metrics, compute_metrics
from dlrmjit.model.model import Model
from dlrmjit.ranking.metrics import ListMetrics, ScoredLists, metrics_of_sums
from dlrmjit.training.fit import evaluate, fit

_OPTIMIZER, _RATE = "adam", 0.02


@dataclass(frozen=True)
class BaseRate:
    """The share of clicks among labels, as the probability of every row."""

    rate: float
    metrics: Metrics


def base_rate(train: Source, test: Source) -> BaseRate:
    """Return the share of clicks in ``train`` and its metrics on ``test``; both are read once."""
    clicks, count = 0.0, 0
    for batch in train.batches():
        clicks += float(np.sum(batch.labels, dtype=np.float64))
        count += batch.n
    rate = clicks / max(1, count)
    labels = np.concatenate([batch.labels for batch in test.batches()] or [np.empty(0, np.float32)])
    return BaseRate(rate, compute_metrics(np.full(len(labels), rate), labels))


def any_order(test: Source) -> ListMetrics:
    """Return the metrics of lists whose rows have equal scores: the means over all orders."""
    scored = ScoredLists()
    for batch in test.batches():
        scored.add(np.zeros(batch.n, np.float32), batch.labels, offsets_of(batch, "a ranking"))
    return metrics_of_sums([scored.sums()])


def logistic_regression(
    train: Source, validation: Source, test: Source, settings: Recipe, seed: int = 123
) -> Metrics:
    """Return the metrics on ``test`` of a logistic regression trained on the same rows.

    It has a weight per category and dense feature. Its epochs and its choice by ``validation`` are
    those of ``settings``, its optimizer is Adam, whose rate decays.
    """
    model = Model(lr(train.table_rows, train.dense_features), rng=np.random.RandomState(seed))
    config = TrainConfig(
        epochs=settings.epochs,
        learning_rate=_RATE,
        optimizer=_OPTIMIZER,
        loss=LossConfig("bce"),
        schedule=ScheduleConfig(decay_steps=settings.steps),
        test_every=settings.test_every,
        restore_best=True,
    )
    fit(model, train, config, test=validation)
    return evaluate(model, test)
