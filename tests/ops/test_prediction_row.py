"""A prediction is one row of compiled calls, whichever lookups a batch of its size has."""

import numpy as np
import pytest

from dlrmjit.config.model import TableConfig
from dlrmjit.data.batch import Batch
from dlrmjit.errors import IndexRangeError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.model.graph import Graph
from tests.builders import random_batch, small_config

CONFIG = small_config()
N = 6


def _batch(seed, dtype=np.int64, weighted=False, longest=4):
    batch = random_batch(np.random.default_rng(seed), CONFIG, N, longest, weighted)
    return Batch(batch.dense, batch.indices.astype(dtype), batch.offsets, weights=batch.weights)


def _with_index(batch, table, index):
    batch.indices[batch.offsets[table, 0]] = index
    return batch


def _rows(graph):
    return [run._calls for run in graph.tape._forward_runs.values()]


def test_a_prediction_makes_one_call_of_compiled_code():
    graph = Graph(DLRM(CONFIG, backend="jit"), N)
    for seed in range(3):
        graph.load(_batch(seed))
        graph.tape.forward()
    (row,) = _rows(graph)
    assert len(row) == 1


def test_every_batch_is_scored_by_its_own_lookups():
    model, expected = (DLRM(CONFIG, backend=backend) for backend in ("jit", "reference"))
    forms = [(np.int64, False), (np.int32, False), (np.int64, True), (np.int32, True)]
    for seed, (dtype, weighted) in enumerate([*forms, *forms[::-1], *forms[::2]]):
        batch = _batch(seed, dtype, weighted, longest=1 + seed)
        found = model.predict_proba(batch)
        np.testing.assert_allclose(found, expected.predict_proba(batch), rtol=1e-5)


@pytest.mark.parametrize("bounds", ["clamp", "ignore"])
def test_lookups_outside_a_table_are_replaced_within_the_row(bounds):
    tables = TableConfig(bounds=bounds)
    model, expected = (DLRM(CONFIG, backend=b, tables=tables) for b in ("jit", "reference"))
    for index in (0, 10**6, 0):
        batch = _with_index(_batch(1), 1, index)
        found = model.predict_proba(batch)
        np.testing.assert_allclose(found, expected.predict_proba(batch), rtol=1e-5)


def test_a_lookup_outside_its_table_is_refused_and_the_next_batch_is_scored():
    model = DLRM(CONFIG, backend="jit")
    before = model.predict_proba(_batch(1))
    with pytest.raises(IndexRangeError, match="table 2, sample"):
        model.predict_proba(_with_index(_batch(1), 2, 10**6))
    np.testing.assert_array_equal(model.predict_proba(_batch(1)), before)


@pytest.mark.parametrize("backend", ["jit", "reference"])
def test_probabilities_are_clamped_and_do_not_change_with_the_next_batch(backend):
    model = DLRM(CONFIG, backend=backend)
    found = model.predict_proba(_batch(1), threshold=0.499)
    copy = found.copy()
    model.predict_proba(_batch(2))
    np.testing.assert_array_equal(found, copy)
    assert found.min() >= np.float32(0.499)
    assert found.max() <= np.float32(0.501)
