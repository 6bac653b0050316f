"""``Ranker``: lists of raw columns, in any order of rows, trained and ranked."""

from __future__ import annotations

import numpy as np
import pytest

import dlrmjit
from dlrmjit.data.generate.lists import medoid
from dlrmjit.errors import ConfigError, DataError, ShapeError

LISTS, ITEMS = 120, 6


@pytest.fixture(autouse=True)
def _reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use NumPy, which compiles nothing."""
    monkeypatch.setenv("DLRMJIT_BACKEND", "reference")


def rows_of(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows in a random order, graded by a category and a number, and their lists."""
    rng = np.random.default_rng(seed)
    n = LISTS * ITEMS
    number, kind = rng.standard_normal(n), rng.integers(0, 4, n)
    order = np.argsort((number + kind).reshape(LISTS, ITEMS), axis=1)
    relevance = np.argsort(order, axis=1).reshape(-1)
    lists = np.repeat([f"q{i}" for i in range(LISTS)], ITEMS)
    rows = np.array([[x, f"k{k}"] for x, k in zip(number, kind, strict=True)], object)
    shuffled = rng.permutation(n)
    return rows[shuffled], relevance[shuffled], lists[shuffled]


def ranker(**changes: object) -> dlrmjit.Ranker:
    values = {"max_epochs": 6, "hidden": (8,), "embedding_dim": 4, "dropout": 0.0, "batch_size": 8}
    return dlrmjit.Ranker("listnet", **(values | {"learning_rate": 0.02} | changes))


def test_a_ranker_learns_an_order() -> None:
    fitted = ranker().fit(*rows_of(0))
    rows, relevance, lists = rows_of(1)
    metrics = fitted.measure(rows, relevance, lists, cutoffs=(3,))
    assert metrics.kendall_tau > 0.8
    scores, ranks = fitted.score(rows, lists), fitted.rank(rows, lists)
    for name in np.unique(lists):
        of_list = lists == name
        assert sorted(ranks[of_list]) == list(range(1, ITEMS + 1))
        assert (np.diff(scores[of_list][np.argsort(ranks[of_list])]) <= 0).all()
    assert fitted.result_.restored_step is not None


def test_rows_and_columns_may_be_a_data_frame() -> None:
    pandas = pytest.importorskip("pandas")
    rows, relevance, lists = rows_of(0)
    frame = pandas.DataFrame({"x": rows[:, 0].astype(float), "kind": rows[:, 1]})
    fitted = ranker(max_epochs=1).fit(frame, relevance, pandas.Series(lists))
    of_rows = ranker(max_epochs=1).fit(rows, relevance, lists)
    assert np.array_equal(fitted.score(frame, lists), of_rows.score(rows, lists))
    with pytest.raises(ShapeError, match="training had x, kind"):
        fitted.rank(frame[["kind", "x"]], lists)


def test_a_head_ranks_by_the_other_items() -> None:
    """An item alone allows Kendall's tau of 0.36, as the authors report."""
    train, test = medoid(lists=1500, seed=0), medoid(lists=200, seed=1)
    changes = {"head": "fate", "head_layers": (32, 32, 1), "hidden": (32,), "learning_rate": 0.01}
    fitted = ranker(**changes, max_epochs=12, batch_size=16)
    for made, use in ((train, fitted.fit), (test, fitted.measure)):
        count, items, features = made.features.shape
        rows, lists = made.features.reshape(-1, features), np.repeat(np.arange(count), items)
        result = use(rows, made.relevance.reshape(-1), lists)
    assert result.kendall_tau > 0.45


def test_scores_do_not_depend_on_other_lists() -> None:
    rows, relevance, lists = rows_of(0)
    fitted = ranker(head="fate", head_layers=(8, 1), max_epochs=1).fit(rows, relevance, lists)
    some = np.isin(lists, ["q3", "q77"])
    alone = fitted.score(rows[some], lists[some])
    assert np.allclose(alone, fitted.score(rows, lists)[some], rtol=1e-6, atol=1e-7)


def test_an_eval_set_chooses_the_parameters() -> None:
    fitted = ranker().fit(*rows_of(0), eval_set=rows_of(1))
    [first, *_] = fitted.result_.history
    assert first.metrics.lists == LISTS
    best = max(record.metrics.ndcg for record in fitted.result_.history)
    assert fitted.result_.best.ndcg == best == fitted.result_.test.ndcg


def test_wrong_input_is_named() -> None:
    rows, relevance, lists = rows_of(0)
    with pytest.raises(ConfigError, match="call fit first"):
        ranker().rank(rows, lists)
    with pytest.raises(DataError, match="relevance of row 0 must be from 0 to 100, not -1"):
        ranker().fit(rows, np.full(len(rows), -1), lists)
    with pytest.raises(ShapeError, match=r"720 rows' lists, not \(3,\)"):
        ranker().fit(rows, relevance, lists[:3])
    with pytest.raises(ShapeError, match="labels must have shape"):
        ranker().fit(rows, relevance[:3], lists)
    with pytest.raises(DataError, match=r"row 1 .* no value in column 'lists'"):
        ranker().fit(rows, relevance, [*lists[:1], None, *lists[2:]])
    with pytest.raises(ConfigError, match="a list loss must be one of"):
        dlrmjit.Ranker("bce")
