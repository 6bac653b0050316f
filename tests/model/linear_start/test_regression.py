"""A model starts from the logistic regression of its rows, whose shrinkage the rows decide."""

import numpy as np
import pytest

import dlrmjit
from dlrmjit.architecture.families import build, lr, wide_deep
from dlrmjit.data import ArraySource
from dlrmjit.data.batch import Batch
from dlrmjit.errors import ConfigError
from dlrmjit.model.linear_start import (
    Design,
    regression,
    shift_linear_part,
    solve,
    start_linear_part,
)

ROWS = (40, 3)


def source_of(n=3000, seed=0, effect=0.7, batch=100):
    """Return rows whose logits are a linear form, and these logits."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(0, rows, n) for rows in ROWS], axis=1)
    dense = rng.normal(size=(n, 2))
    effects = [effect * np.random.default_rng(9 + s).normal(size=r) for s, r in enumerate(ROWS)]
    logits = effects[0][ids[:, 0]] + effects[1][ids[:, 1]] + dense @ [0.8, -0.3] - 0.5
    labels = rng.random(n) < 1 / (1 + np.exp(-logits))
    return ArraySource(dense, ids, labels, batch, table_rows=ROWS), logits


def bags(seed=0, n=7):
    """Return batches with bags of several weighted lookups, some empty."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(2):
        counts = rng.integers(0, 4, (2, n))
        indices = [rng.integers(0, rows, c.sum()) for rows, c in zip(ROWS, counts, strict=True)]
        offsets = [np.concatenate([[0], np.cumsum(c)]) for c in counts]
        weights = [rng.normal(size=i.size) for i in indices]
        dense, labels = rng.normal(size=(n, 2)), rng.integers(0, 2, n)
        made.append(Batch(dense, indices, offsets, labels, weights, rng.random(n)))
    return made


def matrix_of(batches):
    """Return all columns of a linear model as a dense matrix."""
    rows = []
    for batch in batches:
        for i in range(batch.n):
            row = np.zeros(sum(ROWS) + 3)
            for s, start in enumerate((0, ROWS[0])):
                indices, offsets = batch.table(s)
                weights = batch.table_weights(s)
                for k in range(offsets[i], offsets[i + 1]):
                    row[start + indices[k]] += 1 if weights is None else weights[k]
            row[-3:-1], row[-1] = batch.dense[i], 1
            rows.append(row)
    return np.array(rows)


def test_products_with_rows_are_those_of_the_dense_matrix():
    batches = bags()
    design, A = Design.of(batches, ROWS), matrix_of(batches)
    rng = np.random.default_rng(1)
    w, r = rng.normal(size=A.shape[1]), rng.normal(size=A.shape[0])
    np.testing.assert_allclose(design.scores(w), A @ w, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(design.transposed(r), A.T @ r, rtol=1e-12, atol=1e-12)


def test_a_step_is_newtons():
    source, _ = source_of()
    batches = list(source.batches())
    design, A = Design.of(batches, ROWS), matrix_of(batches)
    w = np.random.default_rng(2).normal(size=A.shape[1]) * 0.1
    penalty = np.full(len(w), 2.0)
    p = 1 / (1 + np.exp(-A @ w))
    gradient = A.T @ (p - design.labels) + penalty * w
    hessian = A.T @ ((p * (1 - p))[:, None] * A) + np.diag(penalty)
    expected = w - np.linalg.solve(hessian, gradient)
    found, curvature, _ = regression._newton_step(design, w, penalty)
    error = found - expected
    length = (expected - w) @ hessian @ (expected - w)
    assert error @ hessian @ error < 0.01 * length  # in the norm that the iteration reduces
    np.testing.assert_allclose(curvature, (p * (1 - p)) @ A**2, rtol=1e-10)


@pytest.mark.parametrize("effect", [0.05, 0.3, 2.0])
def test_the_shrinkage_suits_the_size_of_the_effects(effect):
    """The errors are about as small as with the variance that the effects were drawn with."""
    source, logits = source_of(1500, effect=effect)
    design = Design.of(source.batches(), ROWS)
    found = np.mean((design.scores(solve(design)) - logits) ** 2)

    def error(shrinkage):
        w, penalty = np.zeros(sum(ROWS) + 3), np.full(sum(ROWS) + 3, shrinkage)
        penalty[-1] = 0
        for _ in range(10):
            w = regression._newton_step(design, w, penalty)[0]
        return np.mean((design.scores(w) - logits) ** 2)

    assert found < 1.35 * error(effect**-2)
    assert found < max(error(0.01), error(1000.0))


def test_a_model_starts_with_the_scores_of_the_regression_and_is_shifted_by_another():
    source, _ = source_of()
    batch = next(iter(source.batches()))
    design = Design.of([batch], ROWS)
    for family in ("lr", "wide-deep"):
        values = {"table_rows": ROWS, "embedding_dim": 4, "mlp_top": (8, 1), "dense_features": 2}
        model = dlrmjit.Model(build(family, values))
        weights = np.random.default_rng(0).normal(size=sum(ROWS) + 3)
        start_linear_part(model, weights)
        p = 1 / (1 + np.exp(-design.scores(weights)))
        np.testing.assert_allclose(model.predict_proba(batch), p, atol=1e-6)
        shift_linear_part(model, weights)
        p = 1 / (1 + np.exp(-design.scores(2 * weights)))
        np.testing.assert_allclose(model.predict_proba(batch), p, atol=1e-6)


def test_the_first_test_is_of_the_start_which_may_be_the_best():
    source, _ = source_of(2000)
    test, _ = source_of(2000, seed=5)
    model = dlrmjit.Model(wide_deep(ROWS, 4, (8, 1), 2))
    start_linear_part(model, solve(Design.of(source.batches(), ROWS)))
    before = model.predict_proba(next(iter(test.batches())))
    config = dlrmjit.TrainConfig(
        epochs=2, learning_rate=5.0, monitor="logloss", test_first=True, restore_best=True
    )
    result = dlrmjit.fit(model, source, config, test=test)
    assert [record.step for record in result.history] == [0, 20, 40]
    assert result.restored_step == 0
    np.testing.assert_array_equal(model.predict_proba(next(iter(test.batches()))), before)


def test_rows_of_one_class_and_columns_without_effect_have_finite_weights():
    source, _ = source_of(60)
    for labels in (np.zeros(60), np.ones(60)):
        design = Design.of(
            ArraySource(*arrays_of(source), labels, 60, table_rows=ROWS).batches(), ROWS
        )
        assert np.isfinite(solve(design)).all()


def arrays_of(source):
    batches = list(source.batches())
    dense = np.concatenate([batch.dense for batch in batches])
    ids = np.concatenate([batch.indices.reshape(2, -1).T for batch in batches])
    return dense, ids


def test_other_models_are_refused():
    model = dlrmjit.DLRM(dlrmjit.ModelConfig(ROWS, 4, (2, 4), (4, 1)))
    with pytest.raises(ConfigError, match="take deepfm, wide-deep, fm or lr"):
        start_linear_part(model, np.zeros(46))
    start_linear_part(dlrmjit.Model(lr(ROWS)), np.zeros(44))
