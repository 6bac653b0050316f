"""How much of the time to its deadline a query may fill."""

import pytest

from dlrmjit.serve.service import time_to_fill

BUDGET = 0.06


@pytest.mark.parametrize("load", [1.5, 3.0, 5.0])
def test_a_burst_leaves_more_than_half_of_the_budget(load):
    """Of a load of 1, queries fill the workers with all they may fill without waiting."""
    rate = load / time_to_fill(BUDGET, BUDGET)
    waiting, step = 0.0, 1e-4
    for _ in range(10_000):
        begun = rate * time_to_fill(BUDGET - waiting, BUDGET)
        waiting = max(0.0, waiting + step * (begun - 1))
    assert 0 < waiting < 0.42 * BUDGET


def test_a_query_without_time_left_fills_nothing():
    assert time_to_fill(-0.01, BUDGET) == time_to_fill(0.0, BUDGET) == 0.0
    assert time_to_fill(BUDGET, BUDGET) == pytest.approx(BUDGET / 4)
