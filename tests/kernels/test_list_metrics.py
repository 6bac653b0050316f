"""Metrics within lists against scikit-learn's, SciPy's and ranx's, list by list."""

import importlib.util
import json
import os
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise, permutations

import numpy as np
import pytest
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.list_metrics import AFTER_NDCG, list_metrics, list_ranks
from dlrmjit_kernels.runtime import threads
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

CUTOFFS = (1, 3, 10)
FEW = st.tuples(st.integers(-3, 3), st.integers(0, 3))  # so few values that ties are common
MANY = st.tuples(st.floats(-9, 9, width=32), st.floats(0, 9, width=32))
LIST = st.lists(FEW, min_size=1, max_size=40) | st.lists(MANY, min_size=1, max_size=40)


def one_list(rows, dtype=np.float64, **options):
    scores, relevance = np.array(rows, dtype).reshape(-1, 2).T.copy()
    values = list_metrics(scores, relevance, np.array([0, len(rows)]), CUTOFFS, **options)[0]
    names = [*(f"ndcg@{k}" for k in CUTOFFS), "ndcg", *AFTER_NDCG]
    return scores, relevance, dict(zip(names, values.tolist(), strict=True))


def close(found, wanted):
    return found == pytest.approx(wanted, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(deadline=None)
@given(rows=LIST)
def test_ndcg_is_that_of_scikit_learn_also_with_ties(rows, dtype):
    scores, relevance, found = one_list(rows, dtype)
    for k in (*CUTOFFS, None):
        alone = float(relevance[0] > 0)  # scikit-learn refuses a single item
        wanted = ndcg_score([relevance], [scores], k=k) if len(rows) > 1 else alone
        assert close(found[f"ndcg@{k}" if k else "ndcg"], wanted)


@settings(deadline=None)
@given(rows=LIST)
def test_exponential_gains_are_gains_of_other_relevance(rows):
    scores, relevance, found = one_list(rows, exponential=True)
    other = one_list(list(zip(scores, 2**relevance - 1, strict=True)))[2]
    assert all(close(found[name], other[name]) for name in found if name.startswith("ndcg"))


@settings(deadline=None)
@given(rows=LIST)
def test_precision_and_auc_are_those_of_scikit_learn(rows):
    scores, relevance, found = one_list(rows)
    is_relevant = relevance > 0
    if is_relevant.any():
        assert close(found["average_precision"], average_precision_score(is_relevant, scores))
    else:
        assert found["average_precision"] == 0
    both = 0 < is_relevant.sum() < len(rows)
    assert close(found["auc"], roc_auc_score(is_relevant, scores) if both else np.nan)


@settings(deadline=None)
@given(rows=LIST)
def test_pairs_are_compared_as_in_scipy_and_by_counting(rows):
    scores, relevance, found = one_list(rows)
    higher = relevance[:, None] > relevance
    unequal, difference = higher.sum(), scores[:, None] - scores
    if not unequal:
        names = ("kendall_tau", "rank_accuracy", "whole_order")
        assert all(np.isnan(found[name]) for name in names)
        return
    all_tied = len(set(scores.tolist())) == 1
    assert close(found["kendall_tau"], 0 if all_tied else kendalltau(scores, relevance)[0])
    right = (higher & (difference > 0)).sum() + 0.5 * (higher & (difference == 0)).sum()
    assert close(found["rank_accuracy"], right / unequal)
    assert found["whole_order"] == (difference[higher] > 0).all()


@settings(deadline=None, max_examples=40)
@given(rows=st.lists(FEW, min_size=1, max_size=6))
def test_reciprocal_rank_is_the_mean_over_all_orders_of_ties(rows):
    total, count = Fraction(0), 0
    for order in permutations(rows):
        if [score for score, _ in order] != sorted((s for s, _ in rows), reverse=True):
            continue
        ranks = [Fraction(1, i + 1) for i, (_, relevance) in enumerate(order) if relevance > 0]
        total, count = total + max(ranks, default=Fraction(0)), count + 1
    assert close(one_list(rows)[2]["reciprocal_rank"], float(total / count))


RANX = """
import json, sys
import ranx

qrels, run, names = json.load(sys.stdin)
print(json.dumps(ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), names)))
"""


def test_metrics_are_those_of_ranx():
    if importlib.util.find_spec("ranx") is None:
        pytest.skip("needs ranx")
    rng = np.random.default_rng(7)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 60, 200))])
    scores = rng.permutation(int(offsets[-1])).astype(np.float64)  # ranx does not define ties
    relevance = np.maximum(rng.integers(-3, 4, len(scores)), 0).astype(np.float64)
    bounds = list(pairwise(offsets.tolist()))
    lists = [i for i, (a, b) in enumerate(bounds) if relevance[a:b].any()]  # ranx needs one
    given = [
        {f"q{i}": {f"d{row}": kind(values[row]) for row in range(*bounds[i])} for i in lists}
        for values, kind in ((relevance, int), (scores, float))
    ]
    names = ["ndcg@1", "ndcg@3", "ndcg@10", "ndcg", "mrr", "map"]
    # Uncompiled, because ranx compiles each metric for ten seconds.
    asked = json.dumps([*given, [*names, "ndcg_burges@10"]])
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-W", "ignore", "-c", RANX]
    run = subprocess.run(
        command, input=asked, env=environment, capture_output=True, text=True, check=True
    )
    wanted = json.loads(run.stdout)
    found = list_metrics(scores, relevance, offsets, CUTOFFS)[lists].mean(axis=0)
    for name, value in zip(names, found, strict=False):
        assert close(value, wanted[name]), name
    burges = list_metrics(scores, relevance, offsets, (10,), exponential=True)[lists, 0]
    assert close(burges.mean(), wanted["ndcg_burges@10"])


def ragged(rng, lists=500, longest=50):
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, longest, lists))])
    scores = np.round(rng.normal(size=offsets[-1]), 1).astype(np.float32)
    return scores, np.maximum(rng.integers(-4, 4, offsets[-1]), 0).astype(np.float32), offsets


def test_lists_do_not_depend_on_each_other_or_on_threads():
    scores, relevance, offsets = ragged(np.random.default_rng(1))
    before, results = threads.get_threads(), set()
    try:
        for count in range(1, min(5, before) + 1):
            threads.set_threads(count)
            found = list_metrics(scores, relevance, offsets, CUTOFFS)
            results.add((found.tobytes(), list_ranks(scores, offsets).tobytes()))
    finally:
        threads.set_threads(before)
    assert len(results) == 1
    for i, (start, stop) in enumerate(pairwise(offsets)):
        alone = list_metrics(
            scores[start:stop].copy(), relevance[start:stop].copy(), np.array([0, stop - start])
        )[0]
        np.testing.assert_array_equal(found[i, len(CUTOFFS) :], alone)
        assert np.isnan(found[i]).all() == (start == stop)


def test_ranks_are_those_of_a_stable_sort():
    scores, _, offsets = ragged(np.random.default_rng(2))
    ranks = list_ranks(scores, offsets)
    for start, stop in pairwise(offsets):
        order = np.argsort(-scores[start:stop], kind="stable")
        assert ranks[start:stop][order].tolist() == list(range(1, stop - start + 1))


def test_a_list_of_many_equal_scores_is_finite():
    rows = [(0.0, float(i % 1000 == 0)) for i in range(20_000)]
    found = one_list(rows, np.float32)[2]
    assert found["kendall_tau"] == 0
    assert found["auc"] == found["rank_accuracy"] == 0.5
    assert found["average_precision"] == pytest.approx(0.001, abs=1e-12)


def test_infinite_scores_are_the_first_and_the_last():
    found = one_list([(np.inf, 1), (0, 0), (-np.inf, 2)])[2]
    assert found["rank_accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        (np.array([0, 3]), "0 to the 4 rows"),
        (np.array([1, 4]), "0 to the 4 rows"),
        (np.empty(0, np.int64), "without an entry"),
        (np.array([0, 3, 2, 4]), "2 follows 3"),
        (np.array([0, 2**63 - 1, -2, 4]), "-2 follows"),
        (np.array([0, 4], np.int32), "int64"),
        (np.array([[0, 4]]), "int64"),
    ],
)
def test_offsets_that_do_not_divide_the_rows_are_refused(offsets, message):
    scores = np.zeros(4)
    with pytest.raises(ShapeError, match=message):
        list_metrics(scores, scores, offsets)
    with pytest.raises(ShapeError, match=message):
        list_ranks(scores, offsets)


def test_other_operands_that_do_not_fit_are_refused():
    scores, offsets = np.zeros(4), np.array([0, 4])
    with pytest.raises(ShapeError, match="relevance"):
        list_metrics(scores, np.zeros(3), offsets)
    with pytest.raises(ShapeError, match="relevance"):
        list_metrics(scores, np.zeros(4, np.float32), offsets)
    with pytest.raises(ShapeError, match="scores"):
        list_metrics(scores.astype(np.int64), scores, offsets)
    with pytest.raises(ShapeError, match="at least 1, not 0"):
        list_metrics(scores, scores, offsets, (3, 0))
