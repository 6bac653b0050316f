"""The stored arrays were drawn by the reference program itself, see docs/data.md."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.data.batch_shard import Share
from dlrmjit.data.generate.random import RandomOptions, RandomSource
from dlrmjit.errors import ConfigError, IndexRangeError

GOLDEN = Path(__file__).parents[1] / "golden" / "random.npz"
ROWS = (5, 30, 1000)
CASES = {
    "fixed": RandomOptions(lookups=6, fixed_lookups=True),
    "variable": RandomOptions(lookups=6),
    "rounded": RandomOptions(lookups=6, round_targets=True),
    "gaussian_fixed": RandomOptions(
        lookups=6, fixed_lookups=True, distribution="gaussian", maximum=4.0
    ),
    "gaussian_variable": RandomOptions(
        lookups=6, distribution="gaussian", maximum=4.0, mu=2.5, sigma=3.0
    ),
}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def source(options, **changes):
    settings = {"data_size": 11, "options": options, "seed": 727} | changes
    return RandomSource(3, ROWS, 4, **settings)


def assert_same(batch, golden, name):
    lengths = np.diff(batch.offsets, axis=1)
    np.testing.assert_array_equal(batch.dense, golden[f"{name}/dense"])
    np.testing.assert_array_equal(lengths, golden[f"{name}/lengths"])
    np.testing.assert_array_equal(batch.indices, golden[f"{name}/indices"])
    np.testing.assert_array_equal(batch.labels, golden[f"{name}/labels"])


@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference_bit_for_bit(golden, name):
    batches = list(source(CASES[name], num_batches=2 if name == "rounded" else 0).batches())
    assert [b.n for b in batches] == ([4, 4] if name == "rounded" else [4, 4, 3])
    for number, batch in enumerate(batches):
        assert_same(batch, golden, f"{name}/{number}")


def test_a_test_in_mid_epoch_advances_the_shared_stream_as_in_the_reference(golden):
    rng = np.random.RandomState(5)
    train = source(CASES["variable"], rng=rng)
    test = source(CASES["variable"], rng=rng)
    for number, batch in enumerate(train.batches()):
        assert_same(batch, golden, f"interleaved/{number}")
        if number == 0:
            assert len(list(test.batches())) == 3


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_starting_late_gives_the_same_batches(options):
    late = list(source(options).batches(start=1))
    for batch, expected in zip(late, list(source(options).batches())[1:], strict=True):
        np.testing.assert_array_equal(batch.indices, expected.indices)
        np.testing.assert_array_equal(batch.dense, expected.dense)


def test_every_epoch_is_the_same():
    again = source(CASES["fixed"])
    first, second = list(again.batches(0)), list(again.batches(1))
    np.testing.assert_array_equal(first[2].indices, second[2].indices)


def scalar_bags(rng, n, rows, options):
    """The definition, one draw at a time."""
    for _ in range(n):
        count = options.lookups
        if not options.fixed_lookups:
            scaled = rng.random_sample() * min(rows, options.lookups)
            count = int(np.rint(max(1.0, scaled)))
        yield np.unique(np.rint(rng.random_sample(count) * (rows - 1)).astype(np.int64))


@given(
    rows=st.lists(st.sampled_from([1, 2, 7, 100, 10**6]), min_size=1, max_size=3),
    n=st.integers(1, 9),
    lookups=st.integers(1, 17),
    fixed=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_drawing_one_by_one(rows, n, lookups, fixed, seed):
    options = RandomOptions(lookups=lookups, fixed_lookups=fixed)
    [batch] = RandomSource(2, rows, n, num_batches=1, options=options, seed=seed).batches()
    rng = np.random.RandomState(seed)
    rng.random_sample((n, 2))
    for s, size in enumerate(rows):
        indices, offsets = batch.table(s)
        expected = list(scalar_bags(rng, n, size, options))
        np.testing.assert_array_equal(np.diff(offsets), [bag.size for bag in expected])
        np.testing.assert_array_equal(indices, np.concatenate(expected))
    np.testing.assert_array_equal(batch.labels, rng.random_sample(n).astype(np.float32))
    batch.check_indices(rows)


def test_a_gaussian_index_outside_its_table_is_named():
    options = RandomOptions(fixed_lookups=True, distribution="gaussian", maximum=50.0)
    with pytest.raises(IndexRangeError, match=r"table 0, sample 0: index \d+ is outside .* 5 rows"):
        next(source(options).batches())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomSource(3, ROWS, 0), "batch size must be at least 1, not 0"),
        (lambda: RandomSource(-1, ROWS, 1), "dense features must not be negative, not -1"),
        (lambda: RandomSource(3, (4, 0), 1), "rows of table 1 must be at least 1, not 0"),
        (lambda: RandomSource(3, ROWS, 1, data_size=0), "data size must be at least 1"),
        (lambda: RandomOptions(lookups=0), "lookups per bag must be at least 1"),
        (lambda: RandomOptions(distribution="zipf"), "uniform, gaussian, not 'zipf'"),
    ],
)
def test_invalid_arguments_are_named(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_multi_hot_bags_have_exactly_their_sizes():
    sizes = (3, 1, 40)
    whole = source(RandomOptions(multi_hot_sizes=sizes))
    for batch in whole.batches():
        assert (np.diff(batch.offsets, axis=1) == np.array(sizes)[:, None]).all()
        batch.check_indices(ROWS)
    part = whole.sliced(Share(1, 2))
    for batch, half in zip(list(whole.batches()), list(part.batches()), strict=True):
        first = Share(1, 2).bounds(batch.n)[0]
        for s in range(len(ROWS)):
            indices, offsets = batch.table(s)
            np.testing.assert_array_equal(half.table(s)[0], indices[offsets[first] :])


def test_every_row_is_drawn_equally_often():
    options = RandomOptions(multi_hot_sizes=(100, 1, 1))
    [batch] = RandomSource(1, ROWS, 1000, data_size=1000, options=options).batches()
    counts = np.bincount(batch.table(0)[0], minlength=5)
    assert abs(counts - 20_000).max() < 1000


@pytest.mark.parametrize("sizes", [(1, 2), (1, 2, 0)])
def test_wrong_multi_hot_sizes_are_refused(sizes):
    with pytest.raises(ConfigError, match="one positive number for each of 3 tables"):
        source(RandomOptions(multi_hot_sizes=sizes))
