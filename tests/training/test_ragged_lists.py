"""Batches of lists of many lengths: few graphs are recorded, and no result changes."""

from typing import get_args

import numpy as np
import pytest

import dlrmjit
from dlrmjit.config.list_loss import ListLoss, ListLossKind
from dlrmjit.data.batch import Batch
from dlrmjit.data.dataset import Dataset
from dlrmjit.data.list_batch import ListBatch, rows_to_record, with_spare_rows
from dlrmjit.errors import DataError
from dlrmjit.model.check import gradients_by_name
from dlrmjit.model.graph import Graph
from dlrmjit.model.model import Model
from dlrmjit.ops.reference.backend import ReferenceBackend
from dlrmjit.training import step as steps
from dlrmjit.training.step import TrainingStep
from tests.builders import family

TABLES = (20, 30)
HEADS = ("pointwise", "feta", "fate", "attention")


def deepfm(head, backend):
    values = {"head": head, "head_layers": (9, 5, 1), "head_dim": 7}
    return Model(family("deepfm", table_rows=TABLES, **values), backend=backend)


def ragged(model, seed, lists=12):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, lists)
    n = int(lengths.sum())
    bags = [rng.integers(0, 3, n) for _ in TABLES]
    ids = [rng.integers(0, rows, bag.sum()) for rows, bag in zip(TABLES, bags, strict=True)]
    offsets = [np.concatenate([[0], np.cumsum(bag)]) for bag in bags]
    dense = rng.standard_normal((n, model.architecture.dense_features))
    offsets_of_lists = np.concatenate([[0], np.cumsum(lengths)])
    return ListBatch(Batch(dense, ids, offsets), offsets_of_lists, rng.integers(0, 4, n))


@pytest.mark.parametrize("kind", get_args(ListLossKind))
@pytest.mark.parametrize("head", HEADS)
def test_spare_rows_change_neither_loss_nor_gradient(head, kind):
    model = deepfm(head, ReferenceBackend(np.float64))
    batch, found = ragged(model, 0), []
    larger = with_spare_rows(batch)
    assert larger.n == rows_to_record(batch.n) > batch.n
    for each in (batch, larger):
        graph = Graph(model, each.n, ListLoss(kind))
        graph.load(each)
        graph.tape.forward()
        found.append((float(graph.loss.data), gradients_by_name(model, graph)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-12)
    for name, gradient in found[0][1].items():
        np.testing.assert_allclose(found[1][1][name], gradient, rtol=1e-9, atol=1e-12)


def count_graphs(monkeypatch, *modules):
    sizes = []

    class Counted(Graph):
        def __init__(self, model, n, *arguments, **options):
            sizes.append(n)
            super().__init__(model, n, *arguments, **options)

    for module in modules:
        monkeypatch.setattr(module, "Graph", Counted)
    return sizes


def test_lists_of_many_lengths_record_few_graphs(monkeypatch):
    sizes = count_graphs(monkeypatch, steps)
    model = deepfm("fate", "reference")
    step = TrainingStep(model, "adam", ListLoss())
    batches = [ragged(model, seed, lists=60) for seed in range(40)]
    for batch in batches:
        step(batch, 0.01)
    assert len({batch.n for batch in batches}) > 20
    assert len(sizes) < 10


def test_rows_without_a_lookup_leave_the_state_of_tables_alone():
    """Adam changes a row that is looked up, even if its gradient is 0."""
    model = deepfm("fate", "reference")
    batch = ragged(model, 3)
    before = [np.array(table) for name, table in model.state_dict().items() if "emb" in name]
    unused = [np.setdiff1d(np.arange(rows), batch.table(s)[0]) for s, rows in enumerate(TABLES)]
    step = TrainingStep(model, "adam", ListLoss())
    for _ in range(3):
        step(batch, 0.1)
    after = [np.array(table) for name, table in model.state_dict().items() if "emb" in name]
    for old, new, rows in zip(before, after, unused, strict=False):
        assert len(rows)
        assert np.array_equal(old[rows], new[rows])


@pytest.mark.parametrize("n", [1, 15, 16, 17, 255, 256, 257, 3456, 10_001])
def test_the_ladder_is_an_eighth_apart(n):
    size = rows_to_record(n)
    assert size % 16 == 0
    assert n <= size <= max(n + 15, 9 * n / 8)
    assert rows_to_record(size) == size


def test_lists_of_one_length_and_weighted_rows_stay():
    model = deepfm("fate", "reference")
    batch = ragged(model, 0)
    n = batch.n - batch.n % 2
    rows = Batch(np.zeros((n, 2)), [], [])
    even = ListBatch(rows, np.arange(0, n + 1, 2), np.zeros(n))
    assert with_spare_rows(even) is even
    assert with_spare_rows(rows) is rows


@pytest.mark.parametrize(
    ("lists", "relevance"),
    [(range(40), [0, 1] * 20), (np.arange(40) // 4, [1] * 40)],
    ids=["lists of one row", "equal relevance"],
)
def test_lists_without_an_order_are_refused(lists, relevance):
    rows = np.random.default_rng(0).standard_normal((40, 2))
    ranker = dlrmjit.Ranker("hinge", head="fate", max_epochs=1)
    with pytest.raises(DataError, match="no list of the training data has two rows of different"):
        ranker.fit(rows, relevance, np.asarray(lists))


@pytest.mark.parametrize("at", [0, 20_000])
def test_one_list_with_an_order_is_enough(at):
    labels = np.zeros(60_000, np.float32)
    ids = np.zeros((len(labels), 1), np.int64)
    data = Dataset(labels, np.zeros((len(labels), 1)), ids, (1,), lists=np.arange(0, 60_001, 3))
    assert not data.has_pairs()
    labels[3 * at - 1 if at else 1] = 1
    assert data.has_pairs()
