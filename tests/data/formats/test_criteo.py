"""The stored batches come from the reference program, reading the same file of invented rows."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.data.formats.criteo import (
    equal_days,
    load_criteo_text,
    prepare,
    split_by_days,
    split_by_fraction,
    sub_sample,
)
from dlrmjit.data.formats.criteo_text import CriteoRows, read_criteo_text
from dlrmjit.errors import ConfigError, DataError

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = GOLDEN / "criteo_tiny.tsv"
REAL = Path(__file__).parents[4] / "shared" / "data" / "criteo" / "kaggle_first8000.tsv.gz"
CASES = {
    "plain": (-1, 0.0, "total"),
    "capped": (7, 0.0, "day"),
    "sampled": (-1, 0.5, "total"),
    "still": (-1, 0.0, "none"),
}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "criteo_batches.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference(golden, name):
    max_ind_range, rate, randomize = CASES[name]
    rng = np.random.RandomState(123)
    data = load_criteo_text(TINY, max_ind_range=max_ind_range, sub_sample_rate=rate, rng=rng)
    split = split_by_days(data.day_counts, randomize, rng)
    assert rng.random_sample() == golden[f"{name}/next"]
    assert data.counts == tuple(golden[f"{name}/counts"])
    for which, order, size in (("train", split.train, 16), ("test", split.test, 5)):
        source = data.source(size, order, max_ind_range)
        batches = list(source.batches())
        assert [b.n for b in batches] == golden[f"{name}/{which}/sizes"].tolist()
        ids = np.concatenate([b.indices.reshape(26, b.n).T for b in batches])
        dense = np.concatenate([b.dense for b in batches])
        labels = np.concatenate([b.labels for b in batches])
        np.testing.assert_array_equal(ids, golden[f"{name}/{which}/ids"])
        np.testing.assert_array_equal(labels, golden[f"{name}/{which}/labels"])
        # Two libraries' logarithms; each is right to one unit in the last place.
        np.testing.assert_allclose(dense, golden[f"{name}/{which}/dense"], rtol=3e-7, atol=1e-7)


def test_sub_sampling_counts_days_as_the_reference(golden):
    rng = np.random.RandomState(123)
    data = load_criteo_text(TINY, sub_sample_rate=0.5, rng=rng)
    assert data.day_counts == tuple(golden["sampled/days"])


def test_ids_below_a_cap_of_the_loader_alone(golden):
    data = load_criteo_text(TINY)
    source = data.source(60, max_ind_range=3)
    assert source.table_rows == tuple(min(count, 3) for count in data.counts)
    [batch] = source.batches()
    np.testing.assert_array_equal(batch.indices.reshape(26, 60).T, data.ids % 3)


def rows_of(hashes, labels=None):
    n = len(hashes)
    labels = np.zeros(n, np.uint8) if labels is None else np.array(labels, np.uint8)
    return CriteoRows(labels, np.zeros((n, 13), np.int32), hashes.astype(np.uint32))


@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 3), min_size=1, max_size=50))
def test_ids_of_hashes_follow_first_appearance(values):
    hashes = np.zeros((len(values), 26), np.uint32)
    hashes[:, 5] = values
    data = prepare(rows_of(hashes), equal_days(len(values)))
    number: dict[int, int] = {}
    expected = [number.setdefault(value, len(number)) for value in values]
    assert data.ids[:, 5].tolist() == expected
    assert data.counts[5] == len(number)
    assert data.counts[0] == 1


def test_negative_integers_become_zero():
    rows = rows_of(np.zeros((2, 26)))
    rows.integers[1, 2] = -3
    rows.integers[1, 3] = 7
    data = prepare(rows, (2,))
    assert data.integers.min() == 0
    assert data.dense[1, 3] == np.log(np.float32(8))


@given(samples=st.integers(0, 1000), days=st.integers(1, 24))
def test_equal_days_differ_by_one_at_most(samples, days):
    sizes = equal_days(samples, days)
    assert sum(sizes) == samples
    assert len(sizes) == days
    assert list(sizes) == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=7),
    st.sampled_from(["total", "day", "none"]),
    st.integers(0, 99),
)
def test_a_split_uses_every_sample_once(day_counts, randomize, seed):
    split = split_by_days(day_counts, randomize, np.random.RandomState(seed))
    first_of_last = sum(day_counts[:-1])
    assert sorted(split.train) == list(range(first_of_last))
    assert [*split.test, *split.validation] == list(range(first_of_last, sum(day_counts)))
    assert len(split.test) - len(split.validation) in (0, 1)


def test_split_by_fraction_keeps_the_order_of_time():
    split = split_by_fraction(8000, 0.8)
    np.testing.assert_array_equal(split.train, np.arange(6400))
    np.testing.assert_array_equal(split.test, np.arange(6400, 8000))
    assert split.validation.size == 0


def test_sub_sampling_keeps_every_click():
    labels = np.arange(2000) % 4 == 0
    rows = rows_of(np.zeros((2000, 26)), labels)
    rest, days = sub_sample(rows, (1500, 500), 0.75, np.random.RandomState(0))
    assert rest.labels.sum() == 500
    # 1500 samples without a click, of which a quarter remain; six standard deviations.
    assert abs(len(rest) - 500 - 375) < 6 * (1500 * 0.75 * 0.25) ** 0.5
    assert sum(days) == len(rest)
    assert sub_sample(rows, (2000,), 1.0, np.random.RandomState(0))[1] == (500,)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: split_by_days((3, 3), "all"), ConfigError, "one of total, day, none, not 'all'"),
        (lambda: split_by_days((3, 3), "total"), ConfigError, "need a random stream; pass rng"),
        (lambda: split_by_days((3,), "none"), DataError, "3 samples in 1 days leave none"),
        (lambda: split_by_days((3, 0), "none"), DataError, "leave none for training or none"),
        (lambda: split_by_fraction(10, 1.5), ConfigError, "training fraction must be between"),
        (lambda: load_criteo_text(TINY, sub_sample_rate=-1.0), ConfigError, "sub-sample rate"),
        (lambda: load_criteo_text(TINY, sub_sample_rate=0.5), ConfigError, "pass rng"),
        (lambda: load_criteo_text(TINY).source(0), ConfigError, "batch size must be at least 1"),
    ],
)
def test_invalid_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.skipif(not REAL.exists(), reason="the Criteo sample next to the checkout is absent")
def test_reads_the_first_rows_of_criteo_kaggle():
    rows = read_criteo_text(REAL)
    assert len(rows) == 8000
    assert rows.integers[:, 1].min() < 0
    assert rows.integers[0].tolist() == [1, 1, 5, 0, 1382, 4, 15, 2, 181, 1, 2, 0, 2]
    assert rows.hashes[0, [0, 20, 21]].tolist() == [0x68FD1E64, 0x07B5194C, 0]
    assert 0.2 < rows.labels.mean() < 0.23
    # Columns of few values have them all among the first rows already.
    data = prepare(rows, equal_days(8000))
    assert (data.counts[8], data.counts[19]) == (3, 4)
    split = split_by_fraction(len(data), 0.8)
    source = data.source(128, split.train)
    assert source.num_batches == 50
    assert sum(batch.n for batch in source.batches()) == 6400
