"""criteo_tiny_processed.npz was written by the reference program."""

from pathlib import Path

import numpy as np
import pytest

from dlrmjit.data.formats.criteo import load_criteo_text
from dlrmjit.data.formats.dlrm_npz import (
    ProcessedSource,
    processed_source,
    read_day_counts,
    read_processed,
    write_processed,
)
from dlrmjit.errors import DataError, IndexRangeError

GOLDEN = Path(__file__).parents[1] / "golden"
PROCESSED = GOLDEN / "criteo_tiny_processed.npz"


@pytest.fixture
def arrays():
    with np.load(PROCESSED) as file:
        return dict(file)


def assert_same(left, right):
    for field in ("labels", "integers", "ids"):
        np.testing.assert_array_equal(getattr(left, field), getattr(right, field))
        assert getattr(left, field).dtype == getattr(right, field).dtype
    assert (left.counts, left.day_counts) == (right.counts, right.day_counts)


def test_the_references_file_equals_the_text_read_directly():
    assert_same(read_processed(PROCESSED), load_criteo_text(GOLDEN / "criteo_tiny.tsv"))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint16])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_any_type_and_order(tmp_path, arrays, dtype, layout):
    for name in ("X_int", "X_cat", "y"):
        arrays[name] = np.array(arrays[name], dtype=dtype, order=layout)
    np.savez(tmp_path / "other.npz", **arrays)
    read = read_processed(tmp_path / "other.npz")
    assert_same(read, read_processed(PROCESSED))
    assert read.ids.flags.c_contiguous


def test_what_is_written_is_read_back(tmp_path):
    data = load_criteo_text(GOLDEN / "criteo_tiny.tsv")
    write_processed(tmp_path / "set.npz", data)
    assert_same(read_processed(tmp_path / "set.npz"), data)
    assert [path.name for path in tmp_path.iterdir()] == ["set.npz"]


def test_days_of_different_sizes_are_preserved(tmp_path):
    rng = np.random.RandomState(1)
    data = load_criteo_text(GOLDEN / "criteo_tiny.tsv", sub_sample_rate=0.7, rng=rng)
    write_processed(tmp_path / "set.npz", data)
    assert_same(read_processed(tmp_path / "set.npz"), data)


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(DataError, match=r"set\.npz cannot be written: No space left"):
        write_processed(tmp_path / "set.npz", load_criteo_text(GOLDEN / "criteo_tiny.tsv"))
    assert list(tmp_path.iterdir()) == []


def test_negative_integers_become_zero(tmp_path, arrays):
    arrays["X_int"][3, 4] = -2
    np.savez(tmp_path / "negative.npz", **arrays)
    assert read_processed(tmp_path / "negative.npz").integers[3, 4] == 0


@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        ("X_cat", (5, 2), 0.5, "X_cat, sample 5, column 2: 0.5 is not a 32-bit integer"),
        ("X_cat", (5, 2), np.nan, "X_cat, sample 5, column 2: nan is not a 32-bit integer"),
        ("X_int", (0, 12), np.inf, "X_int, sample 0, column 12: inf is not"),
        ("X_int", (0, 12), 2.0**31, "X_int, sample 0, column 12: 2147483648.0 is not"),
        ("y", (7,), 3.0, "y, sample 7: the label 3 found, expected 0 or 1"),
    ],
)
def test_a_bad_value_is_named(tmp_path, arrays, name, at, value, message):
    arrays[name] = arrays[name].astype(np.float64)
    arrays[name][at] = value
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_processed(tmp_path / "bad.npz")


@pytest.mark.parametrize("value", [-1, 10**6])
def test_an_id_outside_its_table_is_named(tmp_path, arrays, value):
    arrays["X_cat"][9, 25] = value
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(IndexRangeError) as caught:
        read_processed(tmp_path / "bad.npz")
    assert (caught.value.table, caught.value.sample, caught.value.index) == (25, 9, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("y"), "lacks y; it has"),
        (lambda a: a.update(y=a["y"][:5]), "y has 5 samples, X_int 60 and X_cat 60"),
        (lambda a: a.update(counts=a["counts"][:5]), "X_cat has 26 columns, but counts has 5"),
        (lambda a: a.update(X_int=a["y"]), r"X_int has shape \(60,\), expected \(any, any\)"),
        (lambda a: a.update(y=np.array(["a"])), "y holds <U1, expected numbers"),
        (lambda a: a.update(y=np.array([None])), "y holds object, expected numbers"),
    ],
)
def test_incompatible_arrays_are_refused(tmp_path, arrays, change, message):
    change(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_processed(tmp_path / "bad.npz")


def test_files_that_are_no_npz_are_refused(tmp_path):
    path = tmp_path / "set.npz"
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_processed(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="holds one array"):
        read_processed(tmp_path / "one.npy")
    for content in (b"", b"text", PROCESSED.read_bytes()[:-100]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"set\.npz is not a complete \.npz file"):
            read_processed(path)


def test_days_come_from_the_file_next_to_the_raw_file(tmp_path):
    raw = tmp_path / "train.txt"
    assert read_day_counts(raw) is None
    np.savez(tmp_path / "train_day_count.npz", total_per_file=np.array([50, 10]))
    days = read_day_counts(raw)
    assert days == (50, 10)
    assert read_processed(PROCESSED, days).day_counts == (50, 10)
    with pytest.raises(DataError, match="has 60 samples, but its days add up to 61"):
        read_processed(PROCESSED, (50, 11))


@pytest.mark.parametrize("limit", [0, 10, 2**31, 2**32 - 1])
def test_the_source_that_is_stored_is_read(tmp_path, limit):
    source = ProcessedSource("5f" * 32, limit)
    write_processed(tmp_path / "set.npz", load_criteo_text(GOLDEN / "criteo_tiny.tsv"), source)
    assert processed_source(tmp_path / "set.npz") == source


@pytest.mark.parametrize("source", [[], [np.nan] * 33, [np.inf] * 33, [0, 256, *range(31)], [0, 1]])
def test_a_damaged_source_is_refused(tmp_path, source):
    np.savez(tmp_path / "set.npz", source=np.array(source))
    with pytest.raises(DataError, match=r"set\.npz: source"):
        processed_source(tmp_path / "set.npz")
