"""Vectors of a factorisation machine are found where rows have products, and nowhere else."""

from dataclasses import replace

import numpy as np
import pytest

import dlrmjit
from dlrmjit.architecture.families import build, deepfm, fm
from dlrmjit.data import ArraySource
from dlrmjit.data.batch import Batch
from dlrmjit.errors import ConfigError
from dlrmjit.model.linear_start import (
    Design,
    Factors,
    factor_width,
    factorise,
    find_start,
    shift_linear_part,
    solve,
    start_linear_part,
)
from dlrmjit.model.linear_start.factors import _bend, _Solver

ROWS = (40, 30, 5)


def source_of(n=6000, seed=0, products=1.0, dense=1):
    """Return rows whose logits have products of the first two columns, and these logits."""
    rng, of_values = np.random.default_rng(seed), np.random.default_rng(99)
    ids = np.stack([rng.integers(0, rows, n) for rows in ROWS], axis=1)
    x = rng.normal(size=(n, dense))
    a, b = of_values.normal(size=(ROWS[0], 2)), of_values.normal(size=(ROWS[1], 2))
    logits = 0.5 * of_values.normal(size=ROWS[2])[ids[:, 2]] + 0.4 * x.sum(axis=1)
    logits += products * (a[ids[:, 0]] * b[ids[:, 1]]).sum(axis=1)
    labels = rng.random(n) < 1 / (1 + np.exp(-logits))
    return ArraySource(x, ids, labels, 500, table_rows=ROWS), logits


def bags(n=60, seed=0, most=3):
    """Return rows with bags of several weighted lookups of different ids, some empty."""
    rng = np.random.default_rng(seed)
    counts = np.minimum(rng.integers(0, most + 1, (len(ROWS), n)), np.array(ROWS)[:, None])
    indices = [
        np.concatenate([rng.choice(rows, size, replace=False) for size in sizes])
        for rows, sizes in zip(ROWS, counts, strict=True)
    ]
    offsets = [np.concatenate([[0], np.cumsum(c)]) for c in counts]
    weights = [rng.normal(size=i.size) for i in indices]
    dense, labels = rng.normal(size=(n, 1)), rng.integers(0, 2, n)
    return Design.of([Batch(dense, indices, offsets, labels, weights, 0.1 + rng.random(n))], ROWS)


def design_of(source):
    return Design.of(source.batches(), ROWS)


def scores(design, weights, factors):
    """Return logits from the matrix of all lookups."""
    starts = np.cumsum([0, *ROWS])
    pooled = np.zeros((len(ROWS), len(design.labels), len(factors)))
    for i, (row, column) in enumerate(zip(design.rows, design.columns, strict=True)):
        scale = 1 if design.factors is None else design.factors[i]
        table = np.searchsorted(starts, column, side="right") - 1
        pooled[table, row] += scale * factors[:, column]
    pairs = pooled.sum(axis=0) ** 2 - (pooled**2).sum(axis=0)
    return design.scores(weights) + pairs.sum(axis=1) / 2


def test_products_are_found():
    source, _ = source_of()
    test, logits = source_of(2000, seed=1)
    design = design_of(source)
    weights = solve(design)
    found, factors = factorise(design, weights, 6)
    of_factors, of_weights = (
        np.corrcoef(scores(design_of(test), w, f), logits)[0, 1]
        for w, f in ((found, factors.means), (weights, np.zeros((1, sum(ROWS)))))
    )
    assert of_factors > 0.95
    assert of_weights < 0.5
    assert np.flatnonzero(factors.means.any(axis=1)).size == 2  # as many as the rows have
    assert np.abs(factors.means[:, -ROWS[2] :]).max() < 0.1 * np.abs(factors.means).max()


@pytest.mark.parametrize("seed", range(3))
def test_rows_without_products_have_no_factor_and_the_weights_of_the_regression(seed):
    source, _ = source_of(4000, seed, products=0)
    design = design_of(source)
    weights = solve(design)
    found, factors = factorise(design, weights, 8)
    np.testing.assert_array_equal(found, weights)
    assert not factors.means.any()


def test_logits_have_the_moments_of_drawn_parameters():
    design, rng = bags(20), np.random.default_rng(3)
    weights = rng.normal(size=len(design.groups))
    factors = Factors(
        rng.normal(size=(2, sum(ROWS))), 0.1 + rng.random((2, sum(ROWS))), np.ones((2, len(ROWS)))
    )
    solver = _Solver(design, weights, factors)
    mean, variance = solver._moments(solver.remove_factors_without_effect())
    draws = [
        scores(design, weights, rng.normal(factors.means, np.sqrt(factors.variances)))
        for _ in range(4000)
    ]
    error = np.std(draws, axis=0) / np.sqrt(len(draws))
    assert (np.abs(np.mean(draws, axis=0) - mean) <= 5 * error + 1e-9).all()
    np.testing.assert_allclose(np.var(draws, axis=0), variance, rtol=0.25, atol=1e-9)


def bound(design, weights, factors, bend):
    """Return the bound of the evidence as a function of the factors, but for a constant."""
    solver = _Solver(design, weights, factors)
    mean, variance = solver._moments(solver.remove_factors_without_effect())
    fits = design.weights * (design.labels - 0.5) * mean - bend * (mean**2 + variance) / 2
    penalty = np.repeat(factors.shrinkage, ROWS, axis=1) * (factors.means**2 + factors.variances)
    return fits.sum() - penalty.sum() / 2 + np.log(factors.variances).sum() / 2


def test_a_tables_means_are_the_best_given_all_others():
    source, _ = source_of(300)
    design, rng = design_of(source), np.random.default_rng(5)
    weights = solve(design)
    factors = Factors(
        rng.normal(size=(2, sum(ROWS))), 0.1 + rng.random((2, sum(ROWS))), np.ones((2, len(ROWS)))
    )
    solver = _Solver(design, weights, factors)
    parts = solver.remove_factors_without_effect()
    logits, variance = solver._moments(parts)
    bend = design.weights * _bend(np.sqrt(logits**2 + variance))
    residual = design.weights * (design.labels - 0.5) - bend * logits
    solver._improve_factor(1, parts[1].sums, bend, residual, shrinks=False)
    last = range(sum(ROWS) - ROWS[-1], sum(ROWS))  # the table that was improved last
    for row in last:
        values = []
        for step in (-1e-4, 1e-4):
            moved = factors.copy()
            moved.means[1, row] += step
            values.append(bound(design, weights, moved, bend))
        assert abs(values[1] - values[0]) / 2e-4 < 1e-5 * design.weights.sum()


def test_a_factor_of_bags_of_many_lookups_raises_the_bound():
    design, rng = bags(200, most=12), np.random.default_rng(7)
    factors = Factors(
        rng.normal(size=(2, sum(ROWS))), 0.01 + rng.random((2, sum(ROWS))), np.ones((2, len(ROWS)))
    )
    solver = _Solver(design, rng.normal(size=len(design.groups)), factors)
    bend = 0.2 * design.weights
    for k in (0, 1, 0, 1):
        before = bound(design, solver.weights, factors, bend)
        parts = solver.remove_factors_without_effect()
        residual = design.weights * (design.labels - 0.5) - bend * solver._moments(parts)[0]
        solver._improve_factor(k, parts[k].sums, bend, residual, shrinks=False)
        assert bound(design, solver.weights, factors, bend) >= before


def test_solutions_are_always_the_same_and_near_those_they_start_from():
    design = design_of(source_of()[0])
    weights = solve(design)
    first, again = (factorise(design, weights, 6) for _ in range(2))
    np.testing.assert_array_equal(first[1].means, again[1].means)
    _, near = factorise(design, weights, 6, first[1])
    assert np.abs(near.means - first[1].means).max() < 0.2 * np.abs(first[1].means).max()


@pytest.mark.parametrize("width", [2, 6, 12])
@pytest.mark.parametrize("family", ["fm", "deepfm"])
def test_a_model_starts_with_the_scores_of_the_machine_and_is_shifted_by_another(family, width):
    source, _ = source_of(3000)
    design, batch = design_of(source), next(iter(source.batches()))
    values = {"table_rows": ROWS, "embedding_dim": width, "mlp_top": (8, 1), "dense_features": 1}
    model = dlrmjit.Model(build(family, values))
    start = find_start(model.architecture, design)
    assert start.factors.means.any()
    assert start.vectors.shape == (sum(ROWS), min(width, 8))
    start_linear_part(model, start.weights, start.vectors)
    logits = scores(Design.of([batch], ROWS), start.weights, start.factors.means)
    np.testing.assert_allclose(model.predict_proba(batch), 1 / (1 + np.exp(-logits)), atol=2e-6)
    other = replace(start, weights=2 * start.weights)
    shift_linear_part(model, *other.minus(start))
    logits += Design.of([batch], ROWS).scores(start.weights)
    np.testing.assert_allclose(model.predict_proba(batch), 1 / (1 + np.exp(-logits)), atol=2e-6)


def test_factors_are_of_models_with_one_plain_table_per_column():
    assert factor_width(deepfm(ROWS, 4, (8, 1), 1)) == 4
    assert factor_width(build("wide-deep", {"table_rows": ROWS, "embedding_dim": 4,
                                            "mlp_top": (8, 1)})) == 0  # fmt: skip
    for refused in (
        fm(ROWS, 4, 1, table_dims=(4, 2, 4)),
        fm(ROWS, 4).with_values("emb_l", collisions=(4, 0, 0)),
        fm(ROWS, 4).with_values("emb_l", pooling="mean"),
        fm(ROWS, 4).with_values("emb_l", learned=True),
    ):
        with pytest.raises(ConfigError, match="tables of one kind, summed"):
            start_linear_part(dlrmjit.Model(refused), np.zeros(77))
