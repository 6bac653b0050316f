"""Lists of rows, the lists that are generated, and a model trained on them."""

import numpy as np
import pytest

import dlrmjit
from dlrmjit.architecture import Architecture, Dense, Mlp
from dlrmjit.data.generate.lists import _click_logits, clicks, hypervolume, medoid
from dlrmjit.errors import ConfigError, DataError, ShapeError


def rows(n=4, **options):
    return dlrmjit.Batch(np.zeros((n, 2)), [], [], **options)


def test_lists_are_a_batch_with_relevance_as_labels():
    batch = dlrmjit.ListBatch(rows(), [0, 1, 4], [0, 2, 1, 0])
    assert batch.n == 4
    assert batch.relevance.tolist() == batch.labels.tolist() == [0, 2, 1, 0]
    assert repr(batch).startswith("ListBatch(n=4")
    assert repr(batch).endswith("lists=2)")


@pytest.mark.parametrize(
    ("lists", "relevance", "error", "message"),
    [
        ([0, 3], [0] * 4, ShapeError, "0 to the 4 rows"),
        ([0, 2, 2, 4], [0] * 4, ShapeError, "list 1 must have rows"),
        ([0, 2**63 - 1, -2, 4], [0] * 4, ShapeError, "list 1 must have rows"),
        (np.array([0, 3, 2, 4], np.uint8), [0] * 4, ShapeError, "list 1 must have rows"),
        ([0.0, 4.0], [0] * 4, ShapeError, "integers"),
        ([], [0] * 4, ShapeError, "integers"),
        ([0, 4], [0] * 3, ShapeError, "labels"),
        ([0, 4], [0, 0, -1, 0], DataError, "row 2"),
        ([0, 4], [0, 0, 101, 0], DataError, "row 2"),
        ([0, 4], [0, np.nan, 1, 0], DataError, "row 1"),
    ],
)
def test_lists_that_do_not_fit_are_refused(lists, relevance, error, message):
    with pytest.raises(error, match=message):
        dlrmjit.ListBatch(rows(), lists, relevance)


def network():
    nodes = (Dense("x", features=2), Mlp("score", ("x",), (16, 1), last="none"))
    return dlrmjit.Model(Architecture(nodes))


def test_a_loss_of_lists_refuses_batches_that_it_cannot_use():
    step = dlrmjit.TrainingStep(network(), "sgd", dlrmjit.ListLoss())
    with pytest.raises(ShapeError, match="ListBatch"):
        step(rows(labels=[0, 1, 0, 1]), 0.1)
    with pytest.raises(DataError, match="row 0"):  # no labels
        step(dlrmjit.ListBatch(rows(), [0, 4]), 0.1)
    weighted = rows(sample_weights=np.ones(4))
    with pytest.raises(ShapeError, match="sample_weights"):
        step(dlrmjit.ListBatch(weighted, [0, 4], [0, 1, 0, 1]), 0.1)
    with pytest.raises(ConfigError, match="LossConfig"):
        dlrmjit.TrainConfig(loss="listnet")
    with pytest.raises(ConfigError, match="one of hinge"):
        dlrmjit.ListLoss("bce")
    with pytest.raises(ConfigError, match="temperature"):
        dlrmjit.ListLoss("approx-ndcg", temperature=0)


@pytest.mark.parametrize("kind", ["hinge", "listnet", "plackett-luce", "lambda", "approx-ndcg"])
def test_every_loss_learns_an_order_that_items_decide(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 6, 2))
    relevance = (x @ [1.0, -2.0]).argsort(axis=1).argsort(axis=1)
    model = network()
    step = dlrmjit.TrainingStep(model, "adam", dlrmjit.ListLoss(kind))
    batch = dlrmjit.ListBatch(
        dlrmjit.Batch(x.reshape(-1, 2), [], []), np.arange(101) * 6, relevance.reshape(-1)
    )
    for _ in range(150):
        step(batch, 0.02)
    scores = model.predict_proba(batch)
    found = dlrmjit.compute_list_metrics(scores, batch.relevance, batch.lists)
    assert found.ndcg > 0.97


def test_medoids_are_nearest_to_all_others():
    made = medoid(50, items=6, features=3, seed=1)
    between = np.linalg.norm(made.features[:, :, None] - made.features[:, None], axis=-1)
    centre = made.relevance.argmax(axis=1)
    np.testing.assert_array_equal(centre, between.sum(axis=2).argmin(axis=1))
    for distances, relevance in zip(between[np.arange(50), centre], made.relevance, strict=True):
        assert (np.diff(distances[np.argsort(-relevance)]) >= 0).all()


def test_hypervolumes_are_those_of_a_fine_grid():
    made = hypervolume(5, items=4, seed=2)
    line = -(np.arange(1000) + 0.5) / 1000
    grid = np.stack(np.meshgrid(line, line), axis=-1)[:, :, None]
    for points, relevance in zip(made.features, made.relevance, strict=True):
        dominates = (points <= grid).all(axis=-1)
        added = (dominates & (dominates.sum(axis=-1, keepdims=True) == 1)).mean(axis=(0, 1))
        assert (np.diff(added[np.argsort(-relevance)]) <= 2e-3).all()


def test_clicks_are_those_of_their_probabilities_whose_order_is_the_best():
    made = clicks(5000, items=6, seed=3)
    p = made.probabilities
    assert 0.1 < p.mean() < 0.5
    sigma = np.sqrt((p * (1 - p)).sum())
    assert abs(made.relevance.sum() - p.sum()) < 5 * sigma
    offsets = np.arange(5001) * 6
    best, alone = (
        dlrmjit.compute_list_metrics(scores.reshape(-1), made.relevance.reshape(-1), offsets).ndcg
        for scores in (p, made.features.sum(axis=2))
    )
    assert best > alone + 0.02


def test_an_item_gains_by_a_worse_one_and_loses_by_one_like_it():
    alone = np.array([[[1.0, 1.0], [-1.0, 3.0], [3.0, -1.0]]])
    worse, like = alone.copy(), alone.copy()
    worse[0, 1], like[0, 1] = [0.0, 0.0], [1.1, 0.9]
    first = [_click_logits(points)[0, 0] for points in (alone, worse, like)]
    assert first[1] > first[0] > first[2]


def test_batches_have_whole_lists_in_the_order_of_the_seed():
    made = medoid(7, items=3)
    sizes = [len(batch.lists) - 1 for batch in made.batches(3)]
    assert sizes == [3, 3, 1]
    first, again = (next(made.batches(7, seed=s)).dense for s in (1, 1))
    np.testing.assert_array_equal(first, again)
    assert (np.sort(first, axis=0) == np.sort(made.features.reshape(-1, 2), axis=0)).all()
    with pytest.raises(ConfigError, match="items from 2"):
        medoid(3, items=1)
