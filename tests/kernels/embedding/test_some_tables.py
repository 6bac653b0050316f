"""Some tables of a batch, with the indices of others between theirs."""

import numpy as np
import pytest
from dlrmjit_kernels.embedding import (
    forward as embedding_lookup,
)
from dlrmjit_kernels.embedding import (
    grad_norm,
)
from dlrmjit_kernels.embedding import (
    update as embedding_update,
)
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
    numbers = draw(st.sets(st.integers(0, len(bags.rows) - 1), min_size=1))
    return bags, tuple(sorted(numbers))


def some_of(bags, numbers, indices=None, **options):
    """Those tables alone, and their lookups in the batch of all."""
    tables = EmbeddingTables([bags.rows[t] for t in numbers], bags.width, **options)
    whole = bags.tables()
    for s, t in enumerate(numbers):
        tables.table(s)[...] = whole.table(t)
    indices = bags.indices if indices is None else indices
    return tables, Lookups(indices, bags.offsets[list(numbers)], numbers)


@given(chosen_tables(), st.integers(0, 3))
def test_pooling_fills_their_places_and_no_other(chosen, wider):
    bags, numbers = chosen
    tables, lookups = some_of(bags, numbers)
    shape = (bags.samples, len(bags.rows), bags.width + wider)
    out = np.full(shape, np.float32(7))
    want = out.copy()
    embedding_lookup.pool(tables, lookups, out, "sum", None)
    whole = np.empty((bags.samples, len(bags.rows), bags.width), np.float32)
    bags.tables().lookup(bags.indices, bags.offsets, whole)
    want[:, list(numbers), : bags.width] = whole[:, list(numbers)]
    np.testing.assert_array_equal(out, want)


@given(chosen_tables(), st.sampled_from(RULES), st.sampled_from(["sum", "mean"]))
def test_they_move_as_they_do_among_all(chosen, rule, pooling):
    bags, numbers = chosen
    (tables, lookups), whole = some_of(bags, numbers), bags.tables()
    state, whole_state = tables.new_state(rule), whole.new_state(rule)
    for step in range(2):
        dY = bags.pooled_like(step)
        whole.apply_gradient(bags.indices, bags.offsets, dY, rule, whole_state, pooling)
        embedding_update.apply(tables, lookups, dY, rule, state, pooling, None)
    for s, t in enumerate(numbers):
        np.testing.assert_array_equal(tables.table(s), whole.table(t))


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_the_gradient_in_full_leaves_out_what_lies_between(pooling):
    bags, rows = make_bags((50, 7, 9), 16, 30, 5), [np.zeros((m, 16), np.float32) for m in (50, 9)]
    tables, lookups = some_of(bags, (0, 2))
    dY = bags.pooled_like()[:, [0, 2]]
    tables.accumulate_gradient(lookups.indices, lookups.offsets, dY, rows, pooling)
    expected = bags.dense_gradient(bags.pooled_like(), pooling)
    for found, t in zip(rows, (0, 2), strict=True):
        np.testing.assert_allclose(found, expected[t], rtol=0, atol=1e-5)


def test_the_square_of_the_gradient_is_theirs():
    bags = make_bags((50, 7, 9), 16, 30, 5)
    tables, lookups = some_of(bags, (0, 2))
    memory = tables.new_state(grad_norm.SquareRows())
    dY = bags.pooled_like()
    found = grad_norm.gradient_square(tables, lookups, dY, memory)
    dense = bags.dense_gradient(dY)
    assert found == pytest.approx(np.sum(dense[0] ** 2) + np.sum(dense[2] ** 2), rel=1e-5)


@pytest.mark.parametrize("bounds", ["clamp", "ignore"])
@pytest.mark.parametrize("weighted", [False, True])
def test_lookups_outside_are_moved_or_left_out(bounds, weighted):
    bags = make_bags((50, 7, 9), 16, 30, 5)
    indices = bags.indices.copy()
    indices[::4] = 1000
    indices[1::4] = -3
    tables, lookups = some_of(bags, (0, 2), indices, bounds=bounds)
    out = np.zeros((30, 3, 16), np.float32)
    weights = bags.weights if weighted else None
    embedding_lookup.pool(tables, lookups, out, "sum", weights)
    whole = np.empty_like(out)
    bags.tables(bounds=bounds).lookup(indices, bags.offsets, whole, weights=weights)
    np.testing.assert_array_equal(out[:, [0, 2]], whole[:, [0, 2]])
    assert not out[:, 1].any()


def test_an_index_outside_is_named_by_its_number_among_all():
    bags = make_bags((50, 7, 9), 16, 30, 5)
    indices = bags.indices.copy()
    indices[bags.offsets[2, 5]] = 9
    sample = int(np.searchsorted(bags.offsets[2], bags.offsets[2, 5], side="right")) - 1
    tables, lookups = some_of(bags, (0, 2), indices)
    with pytest.raises(IndexRangeError, match=f"table 2, sample {sample}: index 9"):
        embedding_lookup.pool(tables, lookups, np.empty((30, 3, 16), np.float32), "sum", None)


@pytest.mark.parametrize("shape", [(30, 2, 16), (30, 3, 15), (29, 3, 16)])
def test_room_that_is_too_small_is_refused(shape):
    tables, lookups = some_of(make_bags((50, 7, 9), 16, 30, 5), (0, 2))
    with pytest.raises(ShapeError, match=r"pooled rows must be float32 \(30, 3, 16\)"):
        embedding_lookup.pool(tables, lookups, np.empty(shape, np.float32), "sum", None)
