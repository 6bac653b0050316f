"""The closed form is the optimum: against the exact knapsack, and at the limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrmjit.errors import ConfigError
from dlrmjit.serve.allocation.allocate import Allocator, Curves


def knapsack(curves, cost, least, most, budget):
    """The best value with whole x and costs, by dynamic programming over the budget."""
    best = np.full(budget + 1, -np.inf)
    best[0] = 0.0
    for i in range(len(most)):
        one = Curves(curves.kind, curves.a[i], curves.b[i])
        after = np.full(budget + 1, -np.inf)
        for x in range(least[i], most[i] + 1):
            spent = x * cost[i]
            if spent > budget:
                break
            after[spent:] = np.maximum(after[spent:], best[: budget + 1 - spent] + one.value(x))
        best = after
    return best.max()


@given(
    st.sampled_from(["log", "power", "exponential"]), st.integers(0, 10_000), st.floats(0.1, 0.9)
)
@settings(max_examples=40, deadline=None)
def test_whole_numbers_are_within_half_a_percent_of_the_knapsack(kind, seed, share):
    rng = np.random.default_rng(seed)
    m = 24
    a = rng.lognormal(0, 1, m)
    b = rng.uniform(0.1, 0.9, m) if kind == "power" else rng.uniform(1, 60, m)
    cost, most = rng.integers(1, 4, m), rng.integers(10, 90, m)
    least = rng.integers(0, 4, m)
    budget = int(least @ cost + share * (most - least) @ cost)
    curves = Curves(kind, a, b)
    x = Allocator(curves, cost, least, most).whole(budget)
    assert (x >= least).all()
    assert (x <= most).all()
    assert x @ cost <= budget
    assert curves.value(x).sum() >= 0.995 * knapsack(curves, cost, least, most, budget)


@given(
    st.sampled_from(["log", "power", "exponential"]), st.integers(0, 10_000), st.floats(1.0, 900.0)
)
@settings(max_examples=60, deadline=None)
def test_the_budget_is_spent_and_all_have_one_marginal_value(kind, seed, budget):
    rng = np.random.default_rng(seed)
    b = rng.uniform(0.1, 0.9, 10) if kind == "power" else rng.uniform(1, 60, 10)
    curves = Curves(kind, rng.uniform(0.1, 5, 10), b)
    allocator = Allocator(curves, 1.0, 0, 100)
    found = allocator.solve(budget)
    assert allocator.spent(found.x) == pytest.approx(budget, rel=1e-6)
    inner = (found.x > 1e-3) & (found.x < 100 - 1e-3)
    step = np.minimum(found.x, 1e-3) / 2
    slope = (curves.value(found.x + step) - curves.value(found.x - step)) / np.maximum(
        2 * step, 1e-300
    )
    np.testing.assert_allclose(slope[inner], found.price, rtol=0.05)
    assert (slope[found.x >= 100] >= found.price * 0.95).all()


@given(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=2, unique=True))
def test_the_cost_falls_in_the_price(prices):
    allocator = Allocator(Curves("log", [1.0, 2.0], [3.0, 4.0]), [1.0, 2.0], 1, [50, 60])
    low, high = sorted(prices)
    assert allocator.spent(allocator.at_price(low)) >= allocator.spent(allocator.at_price(high))


def test_a_budget_that_is_enough_has_no_price_and_ranks_all_that_is_worth_something():
    allocator = Allocator(Curves("power", [1.0, 0.0], 0.5), 1.0, [2, 3], [10, 20])
    found = allocator.solve(1e9)
    assert (found.price, found.x.tolist()) == (0.0, [10, 3])


def test_the_budget_yields_to_the_least():
    assert Allocator(Curves("log", [1.0], 1.0), 1.0, 5, 9).whole(2.0).tolist() == [5]


@pytest.mark.parametrize(
    ("kind", "a", "b"), [("log", -1, 1), ("log", 1, 0), ("power", 1, 1), ("x", 1, 1)]
)
def test_curves_that_are_not_concave_are_refused(kind, a, b):
    with pytest.raises(ConfigError, match="curves need"):
        Curves(kind, a, b)
