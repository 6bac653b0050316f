"""The estimator does what scikit-learn and its users expect of a classifier."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import clone
from sklearn.inspection import permutation_importance
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from dlrmjit.errors import ConfigError, DataError, ShapeError
from dlrmjit.sklearn import DLRMClassifier

QUICK = {"max_epochs": 3, "random_state": 0}


def rows_of(n=1200, seed=0):
    """Return a frame of rows like a census's, and labels that depend on all but the noise."""
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(seed)
    city, job = rng.integers(0, 30, n), rng.integers(0, 8, n)
    age, noise = rng.normal(40, 12, n), rng.normal(size=n)
    weights = np.random.default_rng(1)
    logit = weights.normal(size=30)[city] + 2 * weights.normal(size=8)[job] + (age - 40) / 12
    y = np.where(rng.random(n) < 1 / (1 + np.exp(-logit)), ">50K", "<=50K")
    frame = {"city": [f"c{i}" for i in city], "job": [f"j{i}" for i in job], "age": age, "n": noise}
    return pandas.DataFrame(frame), y


# docs/sklearn.md says why these are not applied.
NOT_APPLIED = {"check_sample_weight_equivalence_on_dense_data": "batches differ"}
SKIPPED = {"check_array_api_input"}


def test_the_checks_of_scikit_learn_pass():
    results = check_estimator(
        DLRMClassifier(max_epochs=1, hidden=(4,), batch_size=16),
        expected_failed_checks=NOT_APPLIED,
        on_fail=None,
        on_skip=None,
    )
    others = {r["check_name"]: r["exception"] for r in results if r["status"] != "passed"}
    assert set(others) == {*NOT_APPLIED, *SKIPPED}, others
    assert len(results) > 50


def test_a_frame_of_raw_columns_is_learned_and_its_names_are_kept():
    X, y = rows_of()
    estimator = DLRMClassifier(random_state=0).fit(X[:1000], y[:1000])
    assert roc_auc_score(y[1000:], estimator.predict_proba(X[1000:])[:, 1]) > 0.75
    assert estimator.n_features_in_ == 4
    assert estimator.feature_names_in_.tolist() == ["city", "job", "age", "n"]
    assert set(estimator.predict(X)) <= {">50K", "<=50K"}
    with pytest.raises(ValueError, match="feature names"):
        estimator.predict(X.rename(columns={"job": "work"}))


def test_rows_with_unknown_and_missing_values_are_scored():
    X, y = rows_of()
    estimator = DLRMClassifier(**QUICK).fit(X, y)
    new = X[:3].copy()
    new["city"] = ["nowhere", None, "c1"]
    new.loc[0, "age"] = np.nan
    assert np.isfinite(estimator.predict_proba(new)).all()


def test_a_search_over_a_pipeline_in_processes_of_joblib():
    X, y = rows_of(400)
    pipeline = make_pipeline(FunctionTransformer(), DLRMClassifier(max_epochs=1, random_state=0))
    grid = {"dlrmclassifier__learning_rate": [0.001, 0.01]}
    search = GridSearchCV(pipeline, grid, cv=2, scoring="roc_auc", n_jobs=2).fit(X, y)
    assert search.best_params_["dlrmclassifier__learning_rate"] in (0.001, 0.01)
    assert search.predict(X).shape == (400,)


def test_copies_score_alike_and_a_seed_gives_the_same_model():
    X, y = rows_of()
    first = DLRMClassifier(**QUICK).fit(X, y)
    again = clone(first).fit(X, y)
    expected = first.predict_proba(X)
    np.testing.assert_array_equal(again.predict_proba(X), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(first)).predict_proba(X), expected)


def test_shuffling_the_columns_that_matter_costs_most():
    X, y = rows_of()
    estimator = DLRMClassifier(random_state=0).fit(X, y)
    found = permutation_importance(estimator, X, y, scoring="roc_auc", n_repeats=2, random_state=0)
    importance = dict(zip(X.columns, found.importances_mean, strict=True))
    assert importance["job"] > importance["n"]


def test_an_eval_set_chooses_instead_of_held_out_rows():
    X, y = rows_of()
    estimator = DLRMClassifier(**QUICK).fit(X[:800], y[:800], eval_set=(X[800:], y[800:]))
    assert estimator.result_.test.samples == 400


def test_partial_fits_go_on_where_the_last_one_ended():
    X, y = rows_of()
    estimator = DLRMClassifier(random_state=0)
    for first in range(0, 1200, 300):
        part = slice(first, first + 300)
        estimator.partial_fit(X[part], y[part], classes=["<=50K", ">50K"])
    assert roc_auc_score(y, estimator.predict_proba(X)[:, 1]) > 0.7
    with pytest.raises(ValueError, match="which is not in"):
        estimator.partial_fit(X, np.full(1200, "other"))


@pytest.mark.parametrize("chosen", [["7"], ["no such"]])
def test_categorical_features_that_do_not_exist_are_refused(chosen):
    X, y = rows_of(100)
    with pytest.raises(ValueError, match="there is no column"):
        DLRMClassifier(categorical_features=chosen).fit(X, y)


def test_numbers_are_categories_where_that_is_asked_for():
    rng = np.random.default_rng(0)
    X = np.stack([rng.integers(0, 10, 800), rng.normal(size=800)], axis=1)
    y = (X[:, 0] % 2).astype(int)
    estimator = DLRMClassifier(categorical_features=[0], random_state=0).fit(X, y)
    assert estimator.score(X, y) > 0.95


def test_single_columns_have_learning_rates_of_their_own():
    X, y = rows_of(300)
    array = np.stack([X.city.str[1:].astype(int), X.age, X.job.str[1:].astype(int)], axis=1)
    found = []
    for rates in (None, {"2": 0.5}, {2: 0.0}):
        options = {"categorical_features": [0, 2], "model": "dlrm", "column_rates": rates}
        model = DLRMClassifier(**QUICK, **options).fit(array, y).model_.state_dict()
        found.append([model[f"emb_l.{s}.weight"] for s in (0, 1)])
    (_, job), (_, slower), (_, fixed) = found
    untrained = DLRMClassifier(**options, max_epochs=0, random_state=0).fit(array, y)
    np.testing.assert_array_equal(fixed, untrained.model_.state_dict()["emb_l.1.weight"])
    assert len({values.tobytes() for values in (job, slower, fixed)}) == 3
    assert DLRMClassifier(column_rates={"job": 0}, **QUICK).fit(X, y).score(X, y) > 0.5
    with pytest.raises(ConfigError, match=r"no categorical column 'age'.*they are 'city', 'job'"):
        DLRMClassifier(column_rates={"age": 0}, **QUICK).fit(X, y)
    with pytest.raises(ConfigError, match="no categorical column 1"):
        DLRMClassifier(**QUICK, categorical_features=[0, 2], column_rates={1: 0}).fit(array, y)


def test_the_package_alone_does_not_load_scikit_learn():
    code = "import sys, dlrmjit, dlrmjit.training.fit; sys.exit('sklearn' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_categories_of_numbers_are_categories_and_nullable_integers_are_numbers():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    kind, age = rng.integers(0, 10, 800), rng.integers(20, 60, 800)
    X = pandas.DataFrame({"kind": pandas.Categorical(kind), "age": pandas.array(age, "Int64")})
    X.loc[3, "age"] = pandas.NA
    estimator = DLRMClassifier(random_state=0).fit(X, kind % 2)
    assert estimator.columns_.table_rows == (12,)
    assert estimator.columns_.dense_features == 1
    assert estimator.score(X, kind % 2) > 0.95


def test_labels_that_are_not_finite_are_refused_before_they_are_cast():
    y = np.where(np.arange(40) % 2, np.nan, 0.0)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        DLRMClassifier(max_epochs=1).fit(np.arange(80.0).reshape(40, 2), y)


@pytest.mark.parametrize("part", ["X", "y", "sample_weight"])
def test_masked_arrays_are_refused(part):
    rng = np.random.default_rng(0)
    given = {"X": rng.random((9, 2)), "y": np.arange(9) % 2, "sample_weight": np.ones(9)}
    for masked in (np.ma.masked_equal(given[part], 1), list(np.ma.array(given[part], mask=True))):
        with pytest.raises(ShapeError, match=f"{part} is a masked array"):
            DLRMClassifier(**QUICK).fit(**{**given, part: masked})


def test_numbers_beyond_float32_are_refused():
    X = np.arange(80.0).reshape(40, 2)
    y = np.arange(40) % 2
    X[3, 1] = 1e300
    with pytest.raises(
        DataError, match="1e\\+300 found in a column, beyond the numbers of float32"
    ):
        DLRMClassifier(max_epochs=1).fit(X, y)


def test_weights_of_rows_decide_whose_labels_are_learned():
    """Rows come twice, with opposite labels, of which one has a small weight or none."""
    X, y = rows_of(600)
    pandas = pytest.importorskip("pandas")
    twice = pandas.concat([X, X], ignore_index=True)
    labels = np.concatenate([y, np.where(y == ">50K", "<=50K", ">50K")])
    plain = DLRMClassifier(**QUICK).fit(X, y).predict_proba(X)[:, 1]
    for least in (0.0, 1e-6):
        weights = np.repeat([1.0, least], 600)
        estimator = DLRMClassifier(**QUICK).fit(twice, labels, sample_weight=weights)
        scores = estimator.predict_proba(X)[:, 1]
        assert np.corrcoef(scores, plain)[0, 1] > 0.8
        again = DLRMClassifier(**QUICK).fit(twice, labels, sample_weight=7 * weights)
        np.testing.assert_allclose(again.predict_proba(X)[:, 1], scores, atol=1e-5)
    with pytest.raises(ValueError, match="at least one non-zero"):
        DLRMClassifier(**QUICK).fit(X, y, sample_weight=np.zeros(600))
    with pytest.raises(ValueError, match=r"sample_weight.shape == \(3,\)"):
        DLRMClassifier(**QUICK).fit(X, y, sample_weight=np.ones(3))
    part = DLRMClassifier(**QUICK).partial_fit(X, y, sample_weight=np.ones(600))
    same = DLRMClassifier(**QUICK).partial_fit(X, y)
    np.testing.assert_allclose(part.predict_proba(X), same.predict_proba(X), atol=1e-6)


def test_linear_rows_are_scored_as_well_as_by_their_own_model():
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 6))
    y = rng.random(3000) < 1 / (1 + np.exp(-x @ [1, -1, 0.5, 0, 0, 0]))
    ours = DLRMClassifier(random_state=0).fit(x[:2000], y[:2000]).predict_proba(x[2000:])[:, 1]
    theirs = linear.LogisticRegression().fit(x[:2000], y[:2000]).predict_proba(x[2000:])[:, 1]
    assert roc_auc_score(y[2000:], ours) > roc_auc_score(y[2000:], theirs) - 0.003


def test_a_notebook_shows_parameters_and_the_model():
    estimator = DLRMClassifier(**QUICK)
    assert "DLRMClassifier" in estimator._repr_html_()
    X, y = rows_of(200)
    assert "<table" in estimator.fit(X, y).model_._repr_html_()
    assert "<table" in estimator.result_._repr_html_()
