"""Means of ranking metrics over lists; the metrics of one list are tested with their kernels."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import dlrmjit
from dlrmjit.errors import ConfigError, DataError, ShapeError

LISTS = st.lists(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 2)), max_size=8), min_size=1, max_size=9
)


@settings(deadline=None)
@given(LISTS)
def test_means_are_those_of_the_lists_that_have_a_value(lists):
    rows = np.array([row for items in lists for row in items], float).reshape(-1, 2)
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in lists])])
    found = dlrmjit.compute_list_metrics(rows[:, 0], rows[:, 1], offsets, (2,))
    values = dlrmjit.compute_list_values(rows[:, 0], rows[:, 1], offsets, (2,))
    same = ("ndcg", "kendall_tau", "rank_accuracy", "whole_order")
    named = {name: getattr(values, name) for name in same}
    named |= {"mrr": values.reciprocal_rank, "map": values.average_precision}
    for name, of_lists in named.items():
        defined = of_lists[~np.isnan(of_lists)]
        wanted = defined.mean() if len(defined) else np.nan
        assert getattr(found, name) == pytest.approx(wanted, abs=1e-12, nan_ok=True)
    assert found.lists == sum(map(bool, lists))
    assert found.items == len(rows)
    without = [items for items in lists if items and not any(r for _, r in items)]
    assert found.lists_without_relevant == len(without)


def test_gauc_weighs_each_user_by_rows_and_leaves_out_those_of_one_kind():
    rng = np.random.default_rng(4)
    lengths = np.array([5, 9, 3, 7])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    scores, clicks = rng.random(24).round(1), rng.integers(0, 2, 24)
    clicks[14:17], clicks[0], clicks[1] = 1, 0, 1
    parts = list(pairwise(offsets))
    both = [(a, b) for a, b in parts if len(set(clicks[a:b])) == 2]
    wanted = sum((b - a) * roc_auc_score(clicks[a:b], scores[a:b]) for a, b in both)
    found = dlrmjit.compute_list_metrics(scores, clicks, offsets)
    assert found.gauc == pytest.approx(wanted / sum(b - a for a, b in both), abs=1e-12)


def test_no_list_has_no_metric():
    found = dlrmjit.compute_list_metrics([], [], [0]).named()
    assert all(np.isnan(value) or value == 0 for value in found.values())
    assert list(found)[:4] == ["ndcg", "ndcg@1", "ndcg@5", "ndcg@10"]


@pytest.mark.parametrize(
    ("scores", "relevance", "error", "message"),
    [
        ([0.1, np.nan], [0, 1], DataError, "score 1 is NaN"),
        ([0.1, 0.2], [0, -1], DataError, "relevance 1 must be from 0"),
        ([0.1, 0.2], [np.nan, 1], DataError, "relevance 0"),
        ([0.1, 0.2], [np.inf, 1], DataError, "relevance 0"),
        ([0.1, 0.2], [1], ShapeError, "2 scores, but 1"),
        (["a", "b"], [0, 1], ShapeError, "scores must be numbers"),
        ([0.1, 0.2], np.ma.masked_equal([0, 1], 1), ShapeError, "relevance is a masked array"),
        ([[0.1, 0.2]], [0, 1], ShapeError, "shape"),
    ],
)
def test_values_without_an_order_are_refused(scores, relevance, error, message):
    with pytest.raises(error, match=message):
        dlrmjit.compute_list_metrics(scores, relevance, [0, 2])


def test_settings_that_mean_nothing_are_refused():
    arrays = ([0.1, 0.2], [0, 101], [0, 2])
    for cutoffs in ((0,), (1.5,), (True,)):
        with pytest.raises(ConfigError, match="at least 1"):
            dlrmjit.compute_list_metrics(*arrays, cutoffs)
    with pytest.raises(ConfigError, match="linear, exponential"):
        dlrmjit.compute_list_metrics(*arrays, gains="log")
    with pytest.raises(DataError, match="from 0 to 100"):
        dlrmjit.compute_list_metrics(*arrays, gains="exponential")
    with pytest.raises(ShapeError, match="integers"):
        dlrmjit.compute_list_metrics([0.1, 0.2], [0, 1], [0.0, 2.0])
