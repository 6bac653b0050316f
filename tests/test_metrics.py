"""Every metric against scikit-learn's, on scores that tie and on classes that are missing."""

from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dlrmjit.errors import ShapeError
from dlrmjit.metrics import Metrics, compute_metrics

NAN = float("nan")
DTYPES = st.sampled_from([np.float32, np.float64])


@st.composite
def scored_samples(draw, classes=(0, 1)):
    """Scores on a coarse grid, so that many tie, 0.5 among them, with their targets."""
    count = draw(st.integers(1, 60))
    steps = draw(st.sampled_from([1, 2, 10, 1000]))
    grid = draw(arrays.arrays(np.int64, count, elements=st.integers(0, steps)))
    targets = draw(arrays.arrays(np.float32, count, elements=st.sampled_from(classes)))
    return (grid / steps).astype(draw(DTYPES)), targets


@given(scored_samples())
def test_threshold_metrics_are_those_of_sklearn(sample):
    scores, targets = sample
    metrics, predicted = compute_metrics(scores, targets), np.round(scores)
    assert metrics.accuracy == pytest.approx(sklearn.metrics.accuracy_score(targets, predicted))
    for name in ("precision", "recall", "f1"):
        reference = getattr(sklearn.metrics, f"{name}_score")
        expected = reference(targets, predicted, zero_division=np.nan)
        assert getattr(metrics, name) == pytest.approx(expected, nan_ok=True)


@given(scored_samples())
def test_ranking_metrics_are_those_of_sklearn(sample):
    scores, targets = sample
    metrics = compute_metrics(scores, targets)
    if targets.any():
        expected = sklearn.metrics.average_precision_score(targets, scores)
        assert metrics.average_precision == pytest.approx(expected, rel=1e-12)
    if targets.any() and not targets.all():
        expected = sklearn.metrics.roc_auc_score(targets, scores)
        assert metrics.auc == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(scored_samples())
def test_log_loss_is_that_of_sklearn(sample):
    scores, targets = sample
    pair = np.stack([1 - scores, scores], axis=1)
    expected = sklearn.metrics.log_loss(targets, pair, labels=[0, 1])
    accuracy = 8 * float(np.finfo(scores.dtype).eps)
    assert compute_metrics(scores, targets).logloss == pytest.approx(
        expected, rel=accuracy, abs=accuracy
    )


@given(scored_samples())
def test_auc_turns_around_with_the_scores(sample):
    scores, targets = sample
    forth, back = compute_metrics(scores, targets), compute_metrics(1 - scores, targets)
    if not np.isnan(forth.auc):
        assert forth.auc + back.auc == pytest.approx(1, abs=1e-12)


def test_half_predicts_the_negative_class():
    assert compute_metrics([0.5, 0.5], [0, 1]).accuracy == 0.5
    assert compute_metrics([0.5], [1]).recall == 0


@pytest.mark.parametrize("targets", [[0, 0, 0], [1, 1, 1]])
def test_one_class_has_no_auc(targets):
    metrics = compute_metrics([0.1, 0.6, 0.9], targets)
    assert np.isnan(metrics.auc)
    assert np.isfinite(metrics.logloss)
    assert np.isnan(metrics.recall) == np.isnan(metrics.average_precision) == (targets[0] == 0)


def test_nothing_predicted_has_no_precision():
    metrics = compute_metrics([0.1, 0.2], [0, 1])
    assert np.isnan(metrics.precision)
    assert metrics.recall == 0
    assert metrics.f1 == 0


def test_real_targets_have_an_accuracy_only():
    metrics = compute_metrics([0.9, 0.2, 0.4], [1, 0.3, 0])
    assert metrics.accuracy == pytest.approx(2 / 3)
    rest = (metrics.auc, metrics.logloss, metrics.precision, metrics.recall, metrics.f1)
    assert np.isnan([*rest, metrics.average_precision]).all()


def test_no_samples_measure_nothing():
    metrics = compute_metrics(np.empty(0, np.float32), np.empty(0, np.float32))
    assert np.isnan(metrics.accuracy)
    assert metrics.samples == 0


def test_nan_scores_have_no_ranking():
    metrics = compute_metrics([0.1, NAN, 0.9], [0, 1, 1])
    assert np.isnan([metrics.auc, metrics.logloss, metrics.average_precision]).all()
    assert metrics.accuracy == pytest.approx(2 / 3)


def test_columns_and_integers_are_accepted():
    column = compute_metrics(np.array([[0.2], [0.8]], np.float32), np.array([[0], [1]]))
    assert column == compute_metrics(np.array([0.2, 0.8], np.float32), [0, 1])
    assert compute_metrics([0, 1], [0, 1]) == Metrics(
        1, pytest.approx(0, abs=1e-15), 1, 1, 1, 1, 1, 2
    )


def test_lengths_must_agree():
    with pytest.raises(ShapeError, match=r"3 scores.*2 targets"):
        compute_metrics([0.1, 0.2, 0.3], [0, 1])


def test_many_scores_are_ranked_as_few_are(monkeypatch):
    rng = np.random.default_rng(1)
    targets = rng.random(3000) < 0.3
    scores = rng.normal(targets, 1.0).astype(np.float32)
    few = compute_metrics(scores, targets)
    monkeypatch.setattr("dlrmjit.metrics.RADIX_MIN_SCORES", 1)
    many = compute_metrics(scores, targets)
    assert many.auc == pytest.approx(few.auc, abs=1e-14)
    assert many.average_precision == pytest.approx(few.average_precision, abs=1e-14)
    assert np.isnan(compute_metrics(np.full(5, np.nan, np.float32), [0, 1, 0, 1, 0]).auc)


def test_metrics_do_not_depend_on_the_blocks_they_are_summed_in(monkeypatch):
    rng = np.random.default_rng(3)
    scores, targets = rng.random(1000).astype(np.float32), rng.random(1000) < 0.3
    whole = compute_metrics(scores, targets)
    monkeypatch.setattr("dlrmjit.metrics.BLOCK", 7)
    parts = compute_metrics(scores, targets)
    assert parts.logloss == pytest.approx(whole.logloss, rel=1e-13)
    assert replace(parts, logloss=whole.logloss) == whole
