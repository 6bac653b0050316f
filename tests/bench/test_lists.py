"""The protocol of heads: scales of features, recipes, and what is measured."""

import itertools

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


def test_the_best_order_of_cells_has_the_most_wins():
    wins = np.array([[0, 3, -1, 2], [-3, 0, 4, -5], [1, -4, 0, 6], [-2, 5, -6, 0]], float)
    totals = {
        order: sum(wins[a, b] for i, a in enumerate(order) for b in order[i + 1 :])
        for order in itertools.permutations(range(4))
    }
    found = tuple(lists.best_order(wins).tolist())
    for k, cell in enumerate(found):  # no move of one cell is better
        others = found[:k] + found[k + 1 :]
        moved = [(*others[:place], cell, *others[place:]) for place in range(4)]
        assert totals[found] >= max(totals[order] for order in moved)


@pytest.mark.parametrize("protocol", ["medoid", "hypervolume"])
def test_cells_cover_the_space_of_items(protocol):
    cells = lists.cells_of(lists.make(protocol, 4000, 5, 1), protocol)
    assert cells.min() == 0
    assert len(np.unique(cells)) == cells.max() + 1 in (lists.CELLS, 2 * lists.CELLS)
