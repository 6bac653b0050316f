import os

import numpy as np
import pytest
from dlrmjit_kernels.embedding import init
from dlrmjit_kernels.embedding.init import Origin
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.row_optimizers import AdagradRows
from dlrmjit_kernels.embedding.tables import EmbeddingTables
from dlrmjit_kernels.runtime import numa, threads
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import ConfigError, IndexRangeError, MemoryLimitError, ShapeError
from tests.kernels.embedding.bags import jagged_bags, make_bags
from tests.tolerance import tolerance


@given(jagged_bags(), st.sampled_from(["sum", "mean"]), st.booleans())
def test_lookup_pools_every_bag(bags, pooling, weighted):
    tables = bags.tables()
    out = bags.pooled_like()
    weights = bags.weights if weighted else None
    tables.lookup(bags.indices, bags.offsets, out, pooling, weights)
    np.testing.assert_allclose(
        out, bags.pool(tables, pooling, weighted), rtol=0, atol=20 * tolerance(20)
    )


def test_lookup_leaves_the_neighbouring_slot_alone():
    bags = make_bags([9, 9], 17, 30, 4)
    block = np.full((30, 3, 17), 7, np.float32)
    bags.tables().lookup(bags.indices, bags.offsets, block[:, 1:])
    assert (block[:, 0] == 7).all()


def test_lookup_accepts_offsets_that_start_late():
    bags = make_bags([9, 50], 16, 30, 4)
    tables, out, late = bags.tables(), bags.pooled_like(), bags.pooled_like()
    tables.lookup(bags.indices, bags.offsets, out)
    padded = np.concatenate([[-5, 99, 1], bags.indices])
    tables.lookup(padded, bags.offsets + 3, late)
    np.testing.assert_array_equal(out, late)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_lookup_and_initialisation_have_the_same_bits_on_any_threads(count):
    bags = make_bags([3, 3000], 64, 700, 30, hot=True)
    before = threads.get_threads()
    results = []
    for used in (1, count):
        threads.set_threads(used)
        tables = EmbeddingTables(bags.rows, 64)
        tables.initialise_uniform(5)
        results.append(bags.pooled_like())
        tables.lookup(bags.indices, bags.offsets, results[-1])
    threads.set_threads(before)
    np.testing.assert_array_equal(*results)


def test_initialisation_is_uniform_in_its_bound_and_differs_between_tables_and_seeds():
    tables = EmbeddingTables([4096, 4096], 16)
    tables.initialise_uniform(1)
    first, second = tables.table(0).copy(), tables.table(1).copy()
    bound = 1 / 64
    assert np.abs(first).max() < bound
    np.testing.assert_allclose(first.std(), bound / np.sqrt(3), rtol=0.02)
    np.testing.assert_allclose(first.mean(), 0, atol=bound * 0.02)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.02
    tables.initialise_uniform(2)
    assert (tables.table(0) != first).mean() > 0.99


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("part_at", [(0, 1, 0, 8), (1, 3, 0, 8), (0, 1, 5, 3), (39, 2, 7, 1)])
def test_initialisation_of_a_part_equals_that_of_all(part_at, precision):
    first, step, column, width = part_at
    whole = EmbeddingTables([50, 40], 8, precision=precision)
    whole.initialise_uniform(3)
    expected = np.asarray(whole.table(1))[first::step, column : column + width]
    part = EmbeddingTables([len(expected)], width, precision=precision)
    part.initialise_uniform(3, [Origin(1, 40, 8, first, step, column)])
    np.testing.assert_array_equal(np.asarray(part.table(0)), expected)


def test_tables_are_aligned_and_do_not_overlap():
    tables = EmbeddingTables([3, 1, 5], 13)
    for s in range(3):
        tables.table(s)[...] = s
    assert all(address % 64 == 0 for address in tables.addresses)
    assert [tables.table(s).sum() for s in range(3)] == [0, 13, 130]
    assert len(tables) == 3
    assert tables.nbytes == 192 + 64 + 320


@pytest.mark.parametrize("index", [-1, 50, 1 << 40])
def test_an_index_outside_its_table_is_named(index):
    bags = make_bags([1000, 50], 16, 60, 5)
    tables = bags.tables()
    indices = bags.indices.copy()
    position = bags.offsets[1, 41]
    indices[position] = index
    n = int(np.searchsorted(bags.offsets[1], position, side="right")) - 1
    for use in (tables.check, lambda *at: tables.lookup(*at, bags.pooled_like())):
        with pytest.raises(IndexRangeError) as error:
            use(indices, bags.offsets)
        assert (error.value.table, error.value.sample, error.value.index) == (1, n, index)
        assert error.value.rows == 50


@given(jagged_bags(), st.booleans())
def test_clamp_takes_the_nearest_row_and_ignore_drops_the_lookup(bags, weighted):
    weights = bags.weights if weighted else None
    indices = bags.indices.astype(np.int64) + np.resize([0, -2000, 0, 5000], len(bags.indices))
    limits = np.repeat(bags.rows, np.diff(bags.offsets[:, [0, -1]]).ravel())
    nearest, inside = np.clip(indices, 0, limits - 1), (indices >= 0) & (indices < limits)
    clamped, dropped = bags.pooled_like(), bags.pooled_like()
    bags.tables(bounds="clamp").lookup(indices, bags.offsets, clamped, "sum", weights)
    bags.tables(bounds="ignore").lookup(indices, bags.offsets, dropped, "sum", weights)
    want = bags.pooled_like()
    tables = bags.tables()
    tables.lookup(nearest, bags.offsets, want, "sum", weights)
    np.testing.assert_array_equal(clamped, want)
    zeroed = (bags.weights if weighted else np.ones(len(inside), np.float32)) * inside
    tables.lookup(nearest, bags.offsets, want, "sum", zeroed)
    np.testing.assert_allclose(dropped, want, rtol=0, atol=20 * tolerance(20))


def test_broken_arguments_are_refused():
    bags = make_bags([9, 9], 16, 5, 3)
    tables, out = bags.tables(), bags.pooled_like()
    descending = bags.offsets[:, ::-1].copy()
    for indices, offsets, y in (
        (bags.indices.astype(np.float32), bags.offsets, out),
        (bags.indices, bags.offsets.astype(np.int32), out),
        (bags.indices, bags.offsets[:1], out),
        (bags.indices, descending, out),
        (bags.indices, bags.offsets + 1, out),
        (bags.indices, bags.offsets - 1, out),
        (bags.indices, bags.offsets, out[:3]),
        (bags.indices, bags.offsets, out.astype(np.float64)),
        (bags.indices, bags.offsets, np.zeros((5, 2, 32), np.float32)[:, :, ::2]),
    ):
        with pytest.raises(ShapeError):
            tables.lookup(indices, offsets, y)
    with pytest.raises(ShapeError, match="pooling"):
        tables.lookup(bags.indices, bags.offsets, out, "max")
    with pytest.raises(ShapeError, match="weights"):
        tables.lookup(bags.indices, bags.offsets, out, "sum", bags.weights[:-1])


def test_broken_offsets_are_located():
    with pytest.raises(ShapeError, match="table 0, sample 2: offset 3 after 4"):
        Lookups.checked(np.zeros(9, np.int64), np.array([[0, 4, 3], [3, 5, 9]]), 2)


def test_impossible_tables_are_refused():
    with pytest.raises(ShapeError):
        EmbeddingTables([3, 0], 4)
    with pytest.raises(ConfigError, match="bounds"):
        EmbeddingTables([3], 4, bounds="wrap")
    with pytest.raises(MemoryLimitError, match="GiB"):
        EmbeddingTables([1 << 30] * 64, 512)


def test_a_file_stores_its_tables(tmp_path):
    path = tmp_path / "tables"
    EmbeddingTables([30, 40], 13, path=path).initialise_uniform(4)
    again, fresh = EmbeddingTables([30, 40], 13, path=path), EmbeddingTables([30, 40], 13)
    fresh.initialise_uniform(4)
    assert again.pages == "file"
    for s in range(2):
        np.testing.assert_array_equal(again.table(s), fresh.table(s))


def test_optimizer_state_of_tables_in_a_file_is_in_the_same_directory(tmp_path):
    for path in (tmp_path, tmp_path / "tables"):
        tables = EmbeddingTables([30, 40], 13, path=path)
        (state,) = tables.new_state(AdagradRows(0.1, initial_accumulator=2.0)).tables
        assert (state.placement, state.dim) == ("a file", 13)
        assert (state.table(1) == 2).all()
    assert os.listdir(tmp_path) == ["tables"]


def test_pages_are_spread_where_there_are_several_nodes(monkeypatch):
    touched = []
    monkeypatch.setattr(numa, "node_count", lambda cpus: 2)
    monkeypatch.setattr(init, "touch_pages", lambda data: touched.append(len(data)))
    tables = EmbeddingTables([3000], 16)
    assert touched == [tables.nbytes]
    assert tables.placement == f"{tables.pages} pages spread over 2 NUMA nodes"


def test_touching_pages_leaves_zeros():
    data = np.zeros(5 << 20, np.uint8)
    init.touch_pages(data)
    assert not data.any()


def test_on_one_node_pages_are_not_touched(monkeypatch):
    monkeypatch.setattr(numa, "node_count", lambda cpus: 1)
    monkeypatch.setattr(init, "touch_pages", lambda data: pytest.fail("touched"))
    tables = EmbeddingTables([3000], 16)
    assert tables.placement == f"{tables.pages} pages"
