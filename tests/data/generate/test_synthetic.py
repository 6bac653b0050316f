import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from dlrmjit.data.batch_shard import Share
from dlrmjit.data.generate.rng_skip import SampleRange
from dlrmjit.data.generate.synthetic import (
    CRITEO_KAGGLE_ROWS,
    SyntheticSource,
    criteo_like_rows,
    zipf,
)
from dlrmjit.data.source import Source
from dlrmjit.errors import ConfigError


def bags(batch, lookups):
    """Lookups of each table as (N, P)."""
    return [batch.table(s)[0].reshape(batch.n, count) for s, count in enumerate(lookups)]


def parts_and_labels(source):
    batches = list(source.batches())
    parts = [source.teacher.parts(b.dense, bags(b, source.lookups)) for b in batches]
    return np.concatenate(parts, axis=1), np.concatenate([b.labels for b in batches])


@pytest.fixture(scope="module")
def test_set():
    source = SyntheticSource(4096, 10, split="test")
    return source, *parts_and_labels(source)


def test_the_teacher_reaches_the_auc_it_promises(test_set):
    source, parts, labels = test_set
    auc = roc_auc_score(labels, source.teacher.logits(parts))
    # The standard error of an AUC of 0.8 over 10,000 clicks in 40,960 samples is 0.0025.
    assert auc == pytest.approx(source.teacher_auc, abs=0.01)
    assert 0.79 < source.teacher_auc < 0.81
    assert labels.mean() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("lost", [0, 1, 2], ids=["dense", "first order", "interaction"])
def test_a_model_that_loses_a_part_loses_auc(test_set, lost):
    source, parts, labels = test_set
    broken = parts.copy()
    broken[lost] = broken[lost].mean()
    assert roc_auc_score(labels, source.teacher.logits(broken)) < source.teacher_auc - 0.03


def test_another_seed_is_another_teacher(test_set):
    source, _, labels = test_set
    other = SyntheticSource(4096, 10, seed=7)
    parts = [other.teacher.parts(b.dense, bags(b, source.lookups)) for b in source.batches()]
    auc = roc_auc_score(labels, other.teacher.logits(np.concatenate(parts, axis=1)))
    assert auc < source.teacher_auc - 0.1


SHAPES = [
    {"table_rows": (1,), "dense_features": 1},
    {"table_rows": (4, 3, 2), "dense_features": 4, "lookups": (3, 1, 2)},
    {"table_rows": (10**6, 5 * 10**7, 100), "dense_features": 30, "lookups": 5},
    {"table_rows": CRITEO_KAGGLE_ROWS},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape_gives_valid_batches_and_a_teacher(shape):
    source = SyntheticSource(257, 3, **shape)
    assert isinstance(source, Source)
    assert source.num_samples == 3 * 257
    for batch in source.batches():
        batch.check_indices(source.table_rows)
        assert batch.dense.shape == (257, source.dense_features)
        assert batch.dense.dtype == batch.labels.dtype == np.float32
        assert np.isfinite(batch.dense).all()
        assert set(np.unique(batch.labels)) <= {0.0, 1.0}
        lengths = np.diff(batch.offsets, axis=1)
        assert (lengths == np.array(source.lookups)[:, None]).all()
    assert 0.75 < source.teacher_auc < 0.85


def same(left, right):
    fields = ("dense", "indices", "offsets", "labels")
    return all(np.array_equal(getattr(left, f), getattr(right, f)) for f in fields)


@given(
    seed=st.integers(0, 2**32), start=st.integers(0, 4), split=st.sampled_from(["train", "test"])
)
def test_any_batch_can_be_made_at_any_time(seed, start, split):
    shape = {"table_rows": (50, 3), "dense_features": 2, "split": split, "seed": seed}
    source = SyntheticSource(8, 4, **shape)
    late = list(SyntheticSource(8, 4, **shape).batches(epoch=2, start=start))
    assert len(late) == 4 - start
    for number, batch in enumerate(late, start):
        assert same(batch, source.batch(number))


def test_slices_have_the_labels_of_the_whole_however_often_they_are_made():
    whole = SyntheticSource(64, 3, table_rows=(20, 30))
    expected = [batch.labels for batch in SyntheticSource(64, 3, table_rows=(20, 30)).batches()]
    for _ in range(2):
        parts = [list(whole.sliced(Share(rank, 2)).batches()) for rank in range(2)]
        for number, labels in enumerate(expected):
            found = np.concatenate([part[number].labels for part in parts])
            np.testing.assert_array_equal(found, labels)


def test_batches_and_splits_differ():
    train, test = SyntheticSource(64, 2), SyntheticSource(64, 2, split="test")
    assert not same(train.batch(0), train.batch(1))
    assert not same(train.batch(0), test.batch(0))


@given(rows=st.sampled_from([1, 2, 3, 1000, 1 << 20, 1 << 21, 40_000_000]), seed=st.integers(0, 99))
def test_zipf_stays_within_the_table(rows, seed):
    draws = zipf(np.random.default_rng(seed), rows, SampleRange(0, 50, 50), 20)
    assert draws.min() >= 0
    assert draws.max() < rows


@pytest.mark.parametrize("rows", [3, 1000, 1 << 21])
def test_zipf_has_the_stated_law(rows):
    draws = zipf(np.random.default_rng(1), rows, SampleRange(0, 200_000, 200_000), 1)
    rank = np.arange(3)
    expected = np.log((rank + 2) / (rank + 1)) / np.log(rows + 1)
    share = np.bincount(draws[:, 0], minlength=3)[:3] / draws.size
    # Six standard deviations of a share over 200,000 draws.
    np.testing.assert_allclose(share, expected, atol=6 * 0.5 / 200_000**0.5)


def test_missing_dense_values_have_criteos_shares():
    dense = SyntheticSource(50_000, 1).batch(0).dense
    zero = (dense == 0).mean(axis=0)
    assert zero[11] > 0.75  # I12
    assert zero.min() < 0.2


@given(total=st.integers(26, 40_000_000))
def test_criteo_like_rows_fill_but_do_not_exceed_the_total(total):
    rows = criteo_like_rows(total)
    assert sum(rows) <= total
    assert rows == CRITEO_KAGGLE_ROWS or total - sum(rows) < 26
    assert max(rows) == rows[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch size must be at least 1, not 0"),
        ({"num_batches": 0}, "number of batches must be at least 1"),
        ({"table_rows": ()}, "number of tables must be at least 1"),
        ({"table_rows": (3, -1)}, "rows of table 1 must be at least 1, not -1"),
        ({"dense_features": -1}, "dense features must not be negative, not -1"),
        (
            {"table_rows": (3, 3), "lookups": (1,)},
            "2 tables need one number of lookups each, not 1",
        ),
        ({"table_rows": (3, 3), "lookups": (1, 0)}, "lookups of table 1 must be at least 1"),
        ({"split": "dev"}, "split must be one of train, test, calibration, not 'dev'"),
    ],
)
def test_invalid_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SyntheticSource(**({"batch_size": 4, "num_batches": 2} | arguments))
