"""Signs that a model has not learned are named, and none where there are none."""

import numpy as np
import pytest

import dlrmjit
from dlrmjit.architecture.families import FAMILIES, build
from dlrmjit.training.health import dead_layers, scale_notes, score_notes

ROWS = (30, 20, 10)


def batch_of(n):
    rng = np.random.default_rng(n)
    ids = [rng.integers(0, rows, n) for rows in ROWS]
    return dlrmjit.Batch(rng.normal(size=(n, 4)), ids, [np.arange(n)] * 3, rng.random(n) < 0.3)


def model_of(family, **more):
    values = {
        "table_rows": ROWS,
        "embedding_dim": 4,
        "mlp_bottom": (4, 8, 4),
        "mlp_top": (8, 6, 1),
        "dense_features": 4,
        **more,
    }
    return dlrmjit.Model(build(family, values), backend="reference")


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_whose_outputs_are_all_zero_are_named(family):
    model, batch = model_of(family), batch_of(2000)
    assert dead_layers(model, batch) == []
    killed = [name for name in model.dense if name in ("bot_l.2.bias", "top_l.2.bias")]
    for name in killed:
        model.dense[name].data[...] = -1e4
    layers = [
        sum(other.startswith(name[:6]) and other.endswith(".bias") for other in model.dense)
        for name in killed
    ]
    expected = [f"layer 2 of {of} of {name[:5]}" for name, of in zip(killed, layers, strict=True)]
    assert dead_layers(model, batch) == expected


def test_few_rows_say_nothing_about_a_layer():
    model = model_of("dlrm")
    model.dense["bot_l.2.bias"].data[...] = -1e4
    assert dead_layers(model, batch_of(31)) == []


def test_scores_that_are_constant_or_far_from_the_share_of_clicks_are_noted():
    labels = np.arange(5000) % 5 == 0
    (note,) = score_notes(np.full(5000, 0.2), labels)
    assert "the same" in note
    (note,) = score_notes(np.linspace(0.51, 0.91, 5000), labels)
    assert "the mean prediction is 0.71" in note


@pytest.mark.parametrize("n", [31, 40, 5000])
def test_scores_as_often_clicked_as_predicted_are_not_noted(n):
    rng = np.random.default_rng(n)
    scores = rng.uniform(0.1, 0.3, n)
    assert score_notes(scores, rng.random(n) < scores) == []


def test_numbers_far_from_one_are_named():
    rng = np.random.default_rng(0)
    dense = np.stack([rng.normal(40, 10, 500), rng.normal(size=500), rng.normal(0, 30, 500)], 1)
    first, third = scale_notes(dense, ["age", "height", "balance"])
    assert "column age have mean 39.7" in first
    assert "column balance" in third
    assert "standardise" in third
    assert scale_notes(dense[:0], ["age", "height", "balance"]) == []
