"""Heads: derivatives, backends, threads, lists of any length, saved models, families."""

from itertools import pairwise

import numpy as np
import pytest
from dlrmjit_kernels.runtime import threads

import dlrmjit
from dlrmjit.architecture import Architecture, Dense
from dlrmjit.architecture.families import FAMILIES, HEADS, head_nodes
from dlrmjit.config.list_loss import ListLoss
from dlrmjit.data.batch import Batch
from dlrmjit.data.generate.lists import medoid
from dlrmjit.data.list_batch import ListBatch
from dlrmjit.errors import ConfigError, ShapeError
from dlrmjit.model.check import check_architecture
from dlrmjit.model.model import Model
from dlrmjit.ops import get_backend
from dlrmjit.ops.reference.backend import ReferenceBackend
from dlrmjit.training.step import TrainingStep
from tests.builders import family

LENGTHS = (1, 2, 7, 1, 40, 3)
LISTS = np.concatenate([[0], np.cumsum(LENGTHS)])
heads = pytest.mark.parametrize("head", HEADS)
WITHOUT_MLP = ("lr", "fm")


def on_features(head, layers=(9, 5, 1), dim=7, features=3):
    return Architecture((Dense("x", features=features), *head_nodes("x", head, layers, dim)))


def list_batch(seed=0, features=3, lists=LISTS):
    rng = np.random.default_rng(seed)
    rows = Batch(rng.standard_normal((lists[-1], features)), [], [])
    return ListBatch(rows, lists, rng.integers(0, 4, lists[-1]))


@heads
@pytest.mark.parametrize(("backend", "tolerance"), [(None, 1e-6), ("jit", 2e-5)])
@pytest.mark.parametrize("layers", [(9, 5, 1), (4, 1), (17, 16, 33, 1)])
def test_gradients(head, backend, tolerance, layers):
    chosen = backend and get_backend(backend)
    check_architecture(on_features(head, layers), backend=chosen, tolerance=tolerance)


@heads
@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in WITHOUT_MLP])
def test_any_family_with_an_mlp_wears_a_head(name, head):
    config = family(name, head=head, head_layers=(6, 1), head_dim=4)
    assert config.needs_lists == (head != "pointwise")
    assert any(node.name == "head" for node in config.nodes)
    check_architecture(config)


@pytest.mark.parametrize("name", WITHOUT_MLP)
def test_a_family_without_an_mlp_is_refused(name):
    with pytest.raises(ConfigError, match="no MLP whose last hidden layer"):
        family(name, head="fate")


@pytest.mark.parametrize(
    ("head", "values", "message"),
    [
        ("ffeta", {}, "unknown head 'ffeta'"),
        ("fate", {"head_layers": (4, 2)}, "end in 1"),
        ("feta", {"head_layers": (1,)}, "hidden layer"),
        ("fate", {"head_layers": (1,)}, "hidden layer"),
        ("attention", {"head_dim": 0}, "at least 1"),
    ],
)
def test_wrong_values_are_refused(head, values, message):
    with pytest.raises(ConfigError, match=message):
        head_nodes("x", head, **values)


@pytest.mark.parametrize("head", [h for h in HEADS if h != "pointwise"])
def test_a_batch_without_lists_is_refused(head):
    model = Model(on_features(head))
    rows = Batch(np.zeros((4, 3)), [], [])
    for use in (model.predict_proba, model.scores, lambda b: TrainingStep(model)(b, 0.1)):
        with pytest.raises(ShapeError, match="needs a ListBatch, not a Batch"):
            use(rows)


@heads
def test_both_backends_train_alike(head):
    config, batch = on_features(head), list_batch()
    losses = {}
    for name, backend in (("jit", get_backend("jit")), ("exact", ReferenceBackend(np.float64))):
        step = TrainingStep(Model(config, backend=backend), "sgd", ListLoss("listnet"))
        losses[name] = [step(batch, 0.1) for _ in range(5)]
    assert losses["jit"] == pytest.approx(losses["exact"], rel=1e-4)
    assert losses["jit"][-1] < losses["jit"][0]


@heads
def test_the_number_of_threads_changes_no_bit(head):
    before, results = threads.get_threads(), []
    batch = list_batch(1, lists=np.arange(0, 1200, 8))
    for count in (1, 2, 4, 7):
        try:
            threads.set_threads(count)
            model = Model(on_features(head, (33, 20, 1)))
            step = TrainingStep(model, "adam", ListLoss("hinge"))
            losses = [step(batch, 0.01) for _ in range(3)]
            results.append((losses, model.scores(batch).tobytes()))
        finally:
            threads.set_threads(before)
    assert all(result == results[0] for result in results)


@heads
def test_scores_depend_on_the_own_list_only(head):
    model, batch = Model(on_features(head)), list_batch()
    together = model.scores(batch)
    for first, last in pairwise(LISTS):
        alone = ListBatch(Batch(batch.dense[first:last], [], []), [0, last - first])
        np.testing.assert_allclose(model.scores(alone), together[first:last], atol=1e-5)


@heads
def test_the_order_of_a_list_permutes_its_scores(head):
    model, n = Model(on_features(head)), 30
    batch = list_batch(2, lists=np.array([0, n]))
    order = np.random.default_rng(0).permutation(n)
    shuffled = ListBatch(Batch(batch.dense[order], [], []), [0, n])
    np.testing.assert_allclose(model.scores(shuffled), model.scores(batch)[order], atol=1e-5)


def test_probabilities_are_those_of_the_scores():
    model, batch = Model(on_features("fate")), list_batch()
    expected = 1 / (1 + np.exp(-model.scores(batch)))
    np.testing.assert_allclose(model.predict_proba(batch), expected, rtol=1e-6)


@heads
def test_a_saved_model_scores_as_before(head, tmp_path):
    config = on_features(head)
    model, batch = Model(config, backend="reference"), list_batch()
    dlrmjit.save(model, tmp_path / "saved")
    loaded = dlrmjit.load(tmp_path / "saved", backend="reference")
    assert loaded.architecture == config
    np.testing.assert_array_equal(loaded.scores(batch), model.scores(batch))


@heads
def test_an_empty_batch_has_no_scores(head):
    empty = ListBatch(Batch(np.zeros((0, 3)), [], []), [0])
    assert Model(on_features(head)).scores(empty).shape == (0,)


def test_fate_learns_an_order_that_a_pointwise_head_cannot():
    train, (test,) = medoid(2000, seed=1), medoid(500, seed=2).batches(500)
    found = {}
    for head in ("pointwise", "fate"):
        model = Model(on_features(head, (32, 32, 1), features=2))
        step = TrainingStep(model, "adam", ListLoss("hinge"))
        for epoch in range(10):
            for batch in train.batches(100, seed=epoch):
                step(batch, 0.005)
        metrics = dlrmjit.compute_list_metrics(model.scores(test), test.relevance, test.lists)
        found[head] = metrics.kendall_tau
    assert found["fate"] > found["pointwise"] + 0.1
