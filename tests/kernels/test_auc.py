"""Ranking metrics by radix against scikit-learn's, in any number of passes."""

import numpy as np
import pytest
from dlrmjit_kernels.auc import ranking_metrics
from dlrmjit_kernels.runtime import threads
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

SCORES = st.floats(width=32, allow_nan=False, allow_infinity=True)
LARGEST = float(np.finfo(np.float32).max)  # scikit-learn refuses infinity


def expected(scores, positive):
    finite = np.clip(scores.astype(np.float64), -2 * LARGEST, 2 * LARGEST)
    return roc_auc_score(positive, finite), average_precision_score(positive, finite)


@given(st.lists(st.tuples(SCORES, st.booleans()), min_size=2, max_size=60))
def test_any_floats_rank_as_in_scikit_learn(rows):
    scores = np.array([score for score, _ in rows], np.float32)
    positive = np.array([label for _, label in rows])
    if positive.all() or not positive.any():
        positive[0] = not positive[0]
    assert ranking_metrics(scores, positive) == pytest.approx(expected(scores, positive), abs=1e-12)


@pytest.mark.parametrize("memory", [4, 40_000, 1 << 29])
@pytest.mark.parametrize("kind", ["probabilities", "logits", "rounded", "equal", "close"])
def test_many_rows_rank_as_in_scikit_learn(kind, memory):
    rng = np.random.default_rng(3)
    n = 40_000 if memory > 4 else 3_000
    positive = rng.random(n) < 0.3
    scores = {
        "probabilities": 1 / (1 + np.exp(-rng.normal(positive, 2.0))),
        "logits": rng.normal(positive, 2.0),
        "rounded": np.round(rng.random(n), 1),
        "equal": np.zeros(n),
        "close": 0.5 + 1e-4 * rng.random(n),
    }[kind].astype(np.float32)
    found = ranking_metrics(scores, positive, memory)
    assert found == pytest.approx(expected(scores, positive), abs=1e-12)


def test_zeros_of_both_signs_tie():
    assert ranking_metrics(np.array([0.0, -0.0], np.float32), np.array([True, False]))[0] == 0.5


def test_threads_and_memory_change_no_bit():
    rng = np.random.default_rng(5)
    scores = rng.random(100_000, np.float32)
    positive = rng.random(100_000) < scores
    before = threads.get_threads()
    results = set()
    try:
        for count in (1, 2, 5):
            threads.set_threads(count)
            results |= {ranking_metrics(scores, positive, m) for m in (1 << 12, 1 << 20, 1 << 29)}
    finally:
        threads.set_threads(before)
    assert len(results) == 1
