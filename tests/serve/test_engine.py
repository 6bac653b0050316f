"""Joined, padded, cut and shared rows have the scores of ``predict_proba``, bit for bit."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrmjit.architecture.families import FAMILIES
from dlrmjit.data.batch import Batch
from dlrmjit.errors import ConfigError, DataError, ShapeError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.model.model import Model
from dlrmjit.serve.engine import Engine, ladder_of
from dlrmjit.serve.rows import Bags, Rows, User, bags_of, batch_of, joined, merged
from tests.builders import family, random_batch, small_config, with_embedding

ENGINE = Engine(DLRM(small_config(), backend="reference"), 64)
TABLES = small_config().table_rows


def one_hot(rng, n):
    ids = np.stack([rng.integers(0, rows, n) for rows in TABLES])
    return Rows(rng.standard_normal((n, 13)).astype(np.float32), Bags(ids))


def jagged_rows(rng, n):
    batch = random_batch(rng, small_config(), n)
    return Rows(batch.dense, bags_of(batch))


def expected(rows, model=ENGINE.model):
    return model.predict_proba(batch_of(rows.full_dense, rows.bags))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=3), st.booleans(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_queries_joined_to_a_batch_have_their_own_scores(sizes, is_jagged, seed):
    rng = np.random.default_rng(seed)
    parts = [(jagged_rows if is_jagged else one_hot)(rng, n) for n in sizes]
    for part, scores in zip(parts, ENGINE.score(parts), strict=True):
        np.testing.assert_allclose(scores, expected(part), rtol=1e-6)


@given(st.integers(1, 12), st.data())
@settings(max_examples=40, deadline=None)
def test_cut_and_chosen_bags_are_those_of_the_rows(n, data):
    rng = np.random.default_rng(n)
    rows = data.draw(st.sampled_from([one_hot, jagged_rows]))(rng, n)
    start = data.draw(st.integers(0, n - 1))
    end = data.draw(st.integers(start + 1, n))
    chosen = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8)))
    for part, numbers in (
        (rows.cut(start, end), np.arange(start, end)),
        (rows.take(chosen), chosen),
    ):
        assert np.array_equal(part.dense, rows.dense[numbers])
        for s in range(len(TABLES)):
            ids, lengths = rows.bags.table(s)
            bags = np.split(ids, np.cumsum(lengths)[:-1])
            found, found_lengths = part.bags.table(s)
            assert np.array_equal(found_lengths, lengths[numbers])
            assert np.array_equal(found, np.concatenate([bags[i] for i in numbers]))


def with_user(rng, n, tables):
    """Rows of one user, and the same rows with the user's values repeated."""
    dense = rng.standard_normal((1, 13)).astype(np.float32)
    bags = jagged_rows(rng, n).bags
    user_bags = jagged_rows(rng, 1).bags
    none = np.empty(0, np.int64)
    item, user, repeated = [], [], []
    for s in range(len(TABLES)):
        (ids, lengths), (mine, length) = bags.table(s), user_bags.table(s)
        is_user = s in tables
        item.append((none, np.zeros(n, np.int64)) if is_user else (ids, lengths))
        user.append((mine, length) if is_user else (none, np.zeros(1, np.int64)))
        repeated.append((np.tile(mine, n), np.repeat(length, n)) if is_user else (ids, lengths))
    shared = Rows(dense, merged(item), User(tables, merged(user), True))
    return shared, Rows(np.repeat(dense, n, axis=0), merged(repeated))


@pytest.mark.parametrize("backend", ["reference", "jit"])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_rows_of_a_user_share_is_computed_once_with_the_same_scores(name, backend):
    config = family(name, table_rows=TABLES)
    engine = Engine(Model(config, backend=backend), 64)
    rng = np.random.default_rng(3)
    pairs = [with_user(rng, n, tables) for n, tables in ((5, (0,)), (9, (0, 2)), (3, ()))]
    plain = jagged_rows(rng, 4)
    for parts, wanted in (
        ([a for a, _ in pairs], [b for _, b in pairs]),
        ([pairs[1][0], plain, pairs[0][0]], [pairs[1][1], plain, pairs[0][1]]),
        ([pairs[1][0].cut(2, 7), pairs[2][0]], [pairs[1][1].cut(2, 7), pairs[2][1]]),
    ):
        for found, rows in zip(engine.score(parts), wanted, strict=True):
            np.testing.assert_allclose(found, expected(rows, engine.model), rtol=2e-6)


def test_the_bits_of_a_score_do_not_depend_on_the_batch():
    engine = Engine(DLRM(small_config(), backend="jit"), 128)
    rng = np.random.default_rng(0)
    first, second = one_hot(rng, 50), one_hot(rng, 33)
    alone = np.concatenate([engine.score([first])[0], engine.score([second])[0]])
    assert np.array_equal(np.concatenate(engine.score([second, first])[::-1]), alone)
    parts = [first.cut(i, i + 1) for i in range(50)]
    assert np.array_equal(np.concatenate(engine.score(parts)), alone[:50])


@given(st.integers(16, 5000))
def test_a_ladder_pads_by_an_eighth_or_15_rows_at_most(most):
    ladder = ladder_of(most)
    assert all(size % 16 == 0 for size in ladder)
    assert ladder == tuple(sorted(set(ladder)))
    assert (ladder[0], (ladder[-1] - most) // 16) == (16, 0)
    for small, large in pairwise(ladder):
        assert large - small <= max(16, small / 8)


def test_warming_records_every_size_and_measures_a_cost():
    engine = Engine(DLRM(small_config(), backend="reference"), 48)
    cost = engine.warm()
    assert min(cost.per_row, cost.fixed + 1e-9) > 0
    assert cost.seconds(10) == pytest.approx(cost.fixed + 10 * cost.per_row)


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        (
            Rows(np.zeros((1, 12), np.float32), Bags(np.zeros((3, 1), np.int64))),
            ShapeError,
            "12 dense",
        ),
        (
            Rows(np.zeros((1, 13), np.float32), Bags(np.zeros((2, 1), np.int64))),
            ShapeError,
            "2 cat",
        ),
        (
            Rows(np.full((1, 13), np.nan, np.float32), Bags(np.zeros((3, 1), int))),
            DataError,
            "finite",
        ),
        (
            Rows(np.zeros((1, 13), np.float32), Bags(np.full((3, 1), 7))),
            DataError,
            "column 0: id 7 found, expected 0 to 6",
        ),
        (Rows(np.zeros((1, 13), np.float32), Bags(np.full((3, 1), -1))), DataError, "id -1"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, error, words):
    with pytest.raises(error, match=words):
        rows.check(ENGINE.model.architecture)


def test_too_many_rows_and_too_small_batches_are_refused():
    with pytest.raises(ConfigError, match="65 rows"):
        ENGINE.size_for(65)
    with pytest.raises(ConfigError, match="at least 16"):
        Engine(ENGINE.model, 8)


def test_a_batch_of_one_id_per_bag_is_stored_so():
    batch = Batch(np.zeros((2, 1)), [np.array([1, 2]), np.array([3, 4])], [np.arange(2)] * 2)
    assert bags_of(batch).offsets is None
    assert joined([bags_of(batch)], 3).ids.tolist() == [[1, 2, 2], [3, 4, 4]]


@pytest.mark.parametrize(
    "changes", [{"collisions": (0, 0, 4)}, {"pooling": "mean"}, {"learned": True}], ids=str
)
def test_every_way_of_pooling_is_shared(changes):
    model = Model(with_embedding(**changes), backend="reference")
    pairs = [with_user(np.random.default_rng(3), n, tables) for n, tables in ((5, (0,)), (9, (2,)))]
    found = Engine(model, 64).score([shared for shared, _ in pairs])
    for scores, (_, rows) in zip(found, pairs, strict=True):
        np.testing.assert_allclose(scores, expected(rows, model), rtol=2e-6)
