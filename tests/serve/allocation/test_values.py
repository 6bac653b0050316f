"""Curves from logs: what truncated answers are worth, and the curve that fits them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.serve.allocation.allocate import Curves
from dlrmjit.serve.allocation.values import fitted, truncated_values


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 1000))
def test_a_truncated_answer_is_the_best_of_the_ranked_and_then_the_prerank(n, top, seed):
    scores = np.random.default_rng(seed).random(n).astype(np.float32)

    def dcg(answer):
        return sum(float(value) / np.log2(i + 2) for i, value in enumerate(answer[:top]))

    for size, value in enumerate(truncated_values(scores, top, range(n + 1))):
        answer = [*np.sort(scores[:size])[::-1], *scores[size:]]
        assert value == pytest.approx(dcg(answer) - dcg(scores), abs=1e-6)


@given(st.integers(2, 300), st.integers(0, 20), st.integers(0, 99))
def test_values_rise_from_zero(n, top, seed):
    scores = np.random.default_rng(seed).random(n).astype(np.float32)
    values = truncated_values(scores, top, range(n + 1))
    assert values[0] == 0
    assert (np.diff(values) >= -1e-9).all()


@pytest.mark.parametrize(
    ("kind", "a", "b"), [("log", 2.0, 30.0), ("power", 1.5, 0.4), ("exponential", 3.0, 80.0)]
)
def test_a_curve_of_either_kind_is_found_again(kind, a, b):
    sizes = [1, 3, 10, 30, 100, 300]
    values = Curves(kind, a, b).value(sizes)
    found = fitted(sizes, values)
    np.testing.assert_allclose(found.value(sizes), values, rtol=0.03)


def test_values_that_do_not_rise_give_a_curve_of_zero():
    assert float(fitted([1, 2, 3], np.array([-1.0, -2.0, -3.0])).a) == 0
