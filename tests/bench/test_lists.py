"""The protocol of heads: scales of features, recipes, and what is measured."""

import numpy as np
import pytest

from bench import lists


def test_features_are_standardised_by_the_training_lists():
    made = lists.make("hypervolume", 500, 5, 1)
    scaled = lists.Scale.of(made).apply(made).features.reshape(-1, 2)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-4)


def test_values_of_recipes_are_read_as_their_types():
    found = dict(map(lists.changed, ["layers=8-4-1", "epochs=3", "rate=0.01", "loss=lambda"]))
    assert found == {"layers": (8, 4, 1), "epochs": 3, "rate": 0.01, "loss": "lambda"}


@pytest.mark.parametrize("head", lists.RECIPES)
def test_a_trained_head_is_measured_by_lists(head):
    made = lists.make("medoid", 300, 5, 1)
    recipe = lists.RECIPES[head]._replace(layers=(8, 8, 1), epochs=2, dim=8)
    metrics = lists.measure(lists.scores_of(lists.train(made, head, recipe, 1), made), made)
    assert metrics.lists == 300
    assert -1 < metrics.kendall_tau < 1
