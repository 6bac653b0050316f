"""Some tables of a batch, with the indices of others between theirs."""

from dataclasses import replace

import numpy as np
import pytest
from dlrmjit_kernels.embedding import forward, grad_norm, update
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.row_optimizers import AdagradRows, RowwiseAdagradRows, SgdRows
from dlrmjit_kernels.embedding.tables import EmbeddingTables
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import IndexRangeError, ShapeError
from tests.kernels.embedding.bags import jagged_bags, make_bags

RULES = [SgdRows(0.3), SgdRows(0.3, l2=0.1), AdagradRows(0.1), RowwiseAdagradRows(0.1)]


@st.composite
def chosen_tables(draw):
    bags = draw(jagged_bags())
    ids = draw(st.sets(st.integers(0, len(bags.rows) - 1), min_size=1))
    return bags, tuple(sorted(ids))


def some_of(bags, ids, indices=None, **options):
    """Those tables alone, and their lookups in the batch of all."""
    tables = EmbeddingTables([bags.rows[t] for t in ids], bags.width, **options)
    whole = bags.tables()
    for s, t in enumerate(ids):
        tables.table(s)[...] = whole.table(t)
    indices = bags.indices if indices is None else indices
    return tables, Lookups(indices, bags.offsets[list(ids)], ids)


@given(chosen_tables(), st.integers(0, 3))
def test_pooling_fills_their_slots_and_no_other(chosen, wider):
    bags, ids = chosen
    tables, lookups = some_of(bags, ids)
    shape = (bags.samples, len(bags.rows), bags.width + wider)
    out = np.full(shape, np.float32(7))
    want = out.copy()
    forward.pool(tables, lookups, out, "sum")
    whole = np.empty((bags.samples, len(bags.rows), bags.width), np.float32)
    bags.tables().lookup(bags.indices, bags.offsets, whole)
    want[:, list(ids), : bags.width] = whole[:, list(ids)]
    np.testing.assert_array_equal(out, want)


@given(chosen_tables(), st.sampled_from(RULES), st.sampled_from(["sum", "mean"]))
def test_they_are_updated_as_among_all(chosen, rule, pooling):
    bags, ids = chosen
    (tables, lookups), whole = some_of(bags, ids), bags.tables()
    state, whole_state = tables.new_state(rule), whole.new_state(rule)
    for step in range(2):
        dY = bags.pooled_like(step)
        whole.apply_gradient(bags.indices, bags.offsets, dY, rule, whole_state, pooling)
        update.apply(tables, lookups, dY, rule, state, pooling)
    for s, t in enumerate(ids):
        np.testing.assert_array_equal(tables.table(s), whole.table(t))


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_the_dense_gradient_leaves_out_the_tables_between(pooling):
    bags, rows = make_bags((50, 7, 9), 16, 30, 5), [np.zeros((m, 16), np.float32) for m in (50, 9)]
    tables, lookups = some_of(bags, (0, 2))
    dY = bags.pooled_like()[:, [0, 2]]
    tables.accumulate_gradient(lookups.indices, lookups.offsets, dY, rows, pooling)
    expected = bags.dense_gradient(bags.pooled_like(), pooling)
    for found, t in zip(rows, (0, 2), strict=True):
        np.testing.assert_allclose(found, expected[t], rtol=0, atol=1e-5)


def test_the_square_of_the_gradient_is_that_of_these_tables():
    bags = make_bags((50, 7, 9), 16, 30, 5)
    tables, lookups = some_of(bags, (0, 2))
    state = tables.new_state(grad_norm.SquareRows())
    dY = bags.pooled_like()
    found = grad_norm.gradient_square(tables, lookups, dY, state)
    dense = bags.dense_gradient(dY)
    assert found == pytest.approx(np.sum(dense[0] ** 2) + np.sum(dense[2] ** 2), rel=1e-5)


@pytest.mark.parametrize("bounds", ["clamp", "ignore"])
@pytest.mark.parametrize("weighted", [False, True])
def test_lookups_outside_are_clamped_or_left_out(bounds, weighted):
    bags = make_bags((50, 7, 9), 16, 30, 5)
    indices = bags.indices.copy()
    indices[::4] = 1000
    indices[1::4] = -3
    tables, lookups = some_of(bags, (0, 2), indices, bounds=bounds)
    out = np.zeros((30, 3, 16), np.float32)
    weights = bags.weights if weighted else None
    forward.pool(tables, replace(lookups, weights=weights), out, "sum")
    whole = np.empty_like(out)
    bags.tables(bounds=bounds).lookup(indices, bags.offsets, whole, weights=weights)
    np.testing.assert_array_equal(out[:, [0, 2]], whole[:, [0, 2]])
    assert not out[:, 1].any()


def test_an_index_outside_is_named_with_its_table_id():
    bags = make_bags((50, 7, 9), 16, 30, 5)
    indices = bags.indices.copy()
    indices[bags.offsets[2, 5]] = 9
    sample = int(np.searchsorted(bags.offsets[2], bags.offsets[2, 5], side="right")) - 1
    tables, lookups = some_of(bags, (0, 2), indices)
    with pytest.raises(IndexRangeError, match=f"table 2, sample {sample}: index 9"):
        forward.pool(tables, lookups, np.empty((30, 3, 16), np.float32), "sum")


@pytest.mark.parametrize("shape", [(30, 2, 16), (30, 3, 15), (29, 3, 16)])
def test_an_output_that_is_too_small_is_refused(shape):
    tables, lookups = some_of(make_bags((50, 7, 9), 16, 30, 5), (0, 2))
    with pytest.raises(ShapeError, match=r"pooled rows must be float32 \(30, 3, 16\)"):
        forward.pool(tables, lookups, np.empty(shape, np.float32), "sum")
