"""Whole preparations against the plain reader of the same text, and against Python's reading."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.data.formats import criteo
from dlrmjit.data.prepare import pipeline
from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepare.stages import shuffle
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import CategoricalColumn
from tests.data.prepare.builders import (
    SCHEMA,
    Row,
    bags_of,
    contents,
    criteo_options,
    order_of,
    rows_of,
    schema_options,
    sorted_rows,
    values_of,
)


@pytest.mark.parametrize("max_ind_range", [0, 50])
def test_equals_the_plain_reader(criteo_text: Path, tmp_path: Path, max_ind_range: int) -> None:
    options = criteo_options(criteo_text, tmp_path / "set", max_ind_range=max_ind_range)
    manifest = prepare(options)
    whole = criteo.load_criteo_text(criteo_text, max_ind_range=max_ind_range or -1)
    expected = np.column_stack([whole.labels, whole.integers, whole.ids])
    train, test = manifest.splits["train"], manifest.splits["test"]
    assert manifest.table_rows == whole.counts
    assert (rows_of(tmp_path / "set", "test") == expected[train : train + test]).all()
    assert (rows_of(tmp_path / "set", "validation") == expected[train + test :]).all()
    found = rows_of(tmp_path / "set", "train")
    assert (found != expected[:train]).any()
    assert (sorted_rows(found) == sorted_rows(expected[:train])).all()


def expected_ids(rows: list[Row], column: CategoricalColumn, train: int) -> list[list[int]]:
    """Ids of training values from 2 on, 0 for values that only other rows have, 1 for missing."""
    known = {"": 1}
    for row in rows[:train]:
        for value in values_of(row, column):
            known.setdefault(value, 1 + len(known))
    return [[known.get(value, 0) for value in values_of(row, column)] for row in rows]


def expected_dense(rows: list[Row], train: int) -> np.ndarray:
    price = np.array([float(row["price"] or 0) for row in rows], np.float32)
    age = np.array([float(row["age"] or "nan") for row in rows])
    mean, deviation = np.nanmean(age[:train]), np.nanstd(age[:train])
    when = np.array([float(row["when"]) for row in rows])
    columns = [
        np.log(np.maximum(price, 0) + np.float32(1)),
        np.nan_to_num((age - mean) / deviation),
        when,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


@pytest.mark.parametrize("shuffled", ["total", "none"])
def test_sets_hold_the_values_of_the_text(
    csv_path: Path, rows: list[Row], tmp_path: Path, shuffled: str
) -> None:
    manifest = prepare(schema_options(csv_path, tmp_path / "set", shuffle=shuffled))
    sizes = {"train": 1051, "validation": 150, "test": 300}
    assert manifest.splits == sizes
    dense = expected_dense(rows, 1051)
    order = [order_of(tmp_path / "set", split) for split in sizes]
    assert order[1] == list(range(1051, 1201))
    assert order[2] == list(range(1201, 1501))
    assert sorted(order[0]) == list(range(1051))
    assert (order[0] == sorted(order[0])) == (shuffled == "none")
    ids = [expected_ids(rows, column, 1051) for column in SCHEMA.categorical]
    for split, positions in zip(sizes, order, strict=True):
        dataset = PreparedSet(tmp_path / "set").dataset(split)
        assert dataset.labels.tolist() == [int(rows[r]["clicked"]) for r in positions]
        np.testing.assert_allclose(dataset.dense, dense[positions], rtol=2e-6, atol=2e-7)
        for s in range(3):
            assert bags_of(tmp_path / "set", split, s) == [ids[s][r] for r in positions]


def test_result_depends_on_neither_memory_workers_compression_nor_line_ends(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(options)
    (path,) = options.inputs
    packed = tmp_path / path.name
    windows = path.read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n")
    packed.write_bytes(gzip.compress(windows))
    monkeypatch.setattr(shuffle, "_SORTING_BYTES", 24)  # one bucket
    prepare(replace(options, inputs=(packed,), out=tmp_path / "b", workers=1, memory=1 << 30))
    assert contents(options.out) == contents(tmp_path / "b")


def test_seed_decides_the_order(criteo_text: Path, tmp_path: Path) -> None:
    prepare(criteo_options(criteo_text, tmp_path / "a"))
    prepare(criteo_options(criteo_text, tmp_path / "b", seed=7))
    a, b = rows_of(tmp_path / "a", "train"), rows_of(tmp_path / "b", "train")
    assert (a != b).any()
    assert (sorted_rows(a) == sorted_rows(b)).all()


def test_logarithms_are_stored_where_asked_for(criteo_text: Path, tmp_path: Path) -> None:
    prepare(criteo_options(criteo_text, tmp_path / "a", dense="float32", indices="int64"))
    prepare(criteo_options(criteo_text, tmp_path / "b"))
    a, b = (PreparedSet(tmp_path / name).dataset("train") for name in "ab")
    np.testing.assert_allclose(a.dense, np.log(b.dense.astype(np.float32) + 1), rtol=3e-7)
    assert a.ids.dtype == np.int64
    assert (a.ids == b.ids).all()
    assert b.log_transform
    assert not a.log_transform


def test_no_more_workers_than_fit_into_the_memory(options: PrepareOptions) -> None:
    asked = replace(options, workers=1000, memory=512 << 20)
    assert 1 <= pipeline._limit_workers(asked).workers <= 3
    assert pipeline._limit_workers(replace(asked, memory=8 << 30, workers=4)).workers == 4


def test_columns_whose_names_are_no_file_names(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("label,a/b\n1,x\n0,y\n")
    schema = replace(SCHEMA, label="label", dense=(), categorical=(CategoricalColumn("a/b"),))
    prepare(schema_options(path, tmp_path / "set", schema=schema, split=SplitRule("none")))
    assert PreparedSet(tmp_path / "set").texts(0) == [b"", b"", b"x", b"y"]
