"""Copies of tables, matrices and weights are equal, and nothing done to one shows in the other."""

import copy
import io
import pickle

import numpy as np
import pytest
from dlrmjit_kernels import AdagradRows, EmbeddingTables, Matrix, SplitWeights
from dlrmjit_kernels.embedding.embedding_bag import BorrowedTables
from dlrmjit_kernels.errors import MemoryLimitError

joblib = pytest.importorskip("joblib")


def by_pickle(x):
    return pickle.loads(pickle.dumps(x))


def by_joblib(x):
    file = io.BytesIO()
    joblib.dump(x, file)
    return joblib.load(file)


COPIES = [copy.copy, copy.deepcopy, by_pickle, by_joblib]


def values(tables):
    return [np.array(tables.table(s)) for s in range(len(tables))]


def same(left, right):
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.fixture(params=["fp32", "bf16", "file", "directory"])
def tables(request, tmp_path):
    path = {"file": tmp_path / "tables", "directory": tmp_path}.get(request.param)
    precision = "bf16" if request.param == "bf16" else "fp32"
    made = EmbeddingTables([50, 7, 1], 5, path, "clamp", precision)
    made.initialise_uniform(1)
    return made


@pytest.mark.parametrize("copied", COPIES)
def test_tables_are_independent(tables, copied):
    other = copied(tables)
    before = values(tables)
    assert same(values(other), before)
    described = (other.rows, other.dim, other.bounds, other.precision, other.placement)
    assert described == (tables.rows, tables.dim, "clamp", tables.precision, tables.placement)
    rng = np.random.RandomState(0)
    indices, offsets = np.zeros(6, np.int64), np.array([[0, 1, 2], [2, 3, 4], [4, 5, 6]])
    gradient = rng.rand(2, 3, 5).astype(np.float32)
    rule = AdagradRows(1.0)
    other.apply_gradient(indices, offsets, gradient, rule, other.new_state(rule))
    assert not same(values(other), before)
    assert same(values(tables), before)


def test_a_copy_of_tables_in_a_file_leaves_the_file(tmp_path):
    tables = EmbeddingTables([9], 4, tmp_path / "tables")
    tables.initialise_uniform(1)
    before = (tmp_path / "tables").read_bytes()
    copy.deepcopy(tables).fill(3)
    assert (tmp_path / "tables").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["tables"]


def test_a_pickle_that_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch):
    tables = EmbeddingTables([9], 4)
    monkeypatch.setattr("dlrmjit_kernels.runtime.buffers.available_memory", lambda: 1)
    monkeypatch.setattr("dlrmjit_kernels.runtime.buffers._recent.until", 0.0)
    with pytest.raises(MemoryLimitError, match="a pickle of the tables need"):
        pickle.dumps(tables)


@pytest.mark.parametrize("copied", COPIES)
def test_borrowed_tables_are_independent(copied):
    array = np.ones((3, 2), np.float32)
    other = copied(BorrowedTables([array]))
    other.table(0)[...] = 2
    assert np.all(array == 1)


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("make", [Matrix.empty_panels, Matrix.empty_blocked])
def test_matrices_are_independent(copied, make):
    array = np.random.RandomState(0).rand(37, 45).astype(np.float32)
    matrix = make(37, 45).assign(array)
    other = copied(matrix)
    assert other.layout == matrix.layout
    assert other.address % 64 == 0
    assert np.array_equal(other.to_numpy(), array)
    other.assign(np.zeros_like(array))
    assert np.array_equal(matrix.to_numpy(), array)


@pytest.mark.parametrize("copied", COPIES)
def test_views_become_matrices_of_their_own(copied):
    array = np.random.RandomState(0).rand(6, 9).astype(np.float32)
    other = copied(Matrix.view(array[:, 2:5]))
    assert np.array_equal(other.to_numpy(), array[:, 2:5])
    array[...] = 0
    assert np.all(other.to_numpy() > 0)


@pytest.mark.parametrize("copied", [copy.deepcopy, by_pickle, by_joblib])
def test_split_weights_are_independent(copied):
    array = np.random.RandomState(0).rand(37, 45).astype(np.float32)
    weights = SplitWeights(37, 45).assign(array)
    other = copied(weights)
    assert np.array_equal(other.to_numpy(), array)
    other.assign(np.zeros_like(array))
    assert np.array_equal(weights.to_numpy(), array)


def test_a_state_is_copied_with_its_steps():
    tables, rule = EmbeddingTables([4], 3), AdagradRows(1.0)
    state = tables.new_state(rule)
    tables.apply_gradient(
        np.zeros(1, np.int64), np.array([[0, 1]]), np.ones((1, 1, 3), np.float32), rule, state
    )
    other = copy.deepcopy(state)
    assert other.steps == 1
    assert same(values(other.tables[0]), values(state.tables[0]))


def test_objects_say_what_they_are():
    assert repr(EmbeddingTables([1000, 20], 16)) == (
        "EmbeddingTables(1,000, 20 rows x 16, fp32, plain pages)"
    )
    assert repr(EmbeddingTables([5, 3, 7, 6], 16, precision="bf16")) == (
        "EmbeddingTables(4 tables of 3 to 7 rows x 16, bf16, plain pages)"
    )
    assert repr(Matrix.view(np.zeros((2, 3), np.float32))) == "Matrix(2 x 3 float32)"
    assert repr(SplitWeights(5, 40)) == "SplitWeights(5 x 40, bf16)"
