"""Labels that are probabilities, where a schema asks for them: prepared, read and written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.cli.commands.convert import main as convert
from dlrmjit.data.check_rows import check_rows
from dlrmjit.data.dataset import Dataset
from dlrmjit.data.loader import Loader
from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import CategoricalColumn, Schema
from dlrmjit.errors import ConfigError, DataError

SCHEMA = Schema("rate", categorical=(CategoricalColumn("c"),), soft_labels=True)
RATES = [r / 97 for r in range(98)]


def options(path: Path, out: Path, **changes: object) -> PrepareOptions:
    start = PrepareOptions((path,), out, schema=SCHEMA, split=SplitRule("none"))
    return replace(start, **changes)  # type: ignore[arg-type]


def write(path: Path, rates: list[object]) -> Path:
    path.write_text("rate,c\n" + "".join(f"{rate},{i}\n" for i, rate in enumerate(rates)))
    return path


@pytest.mark.parametrize("shuffle", ["none", "total"])
def test_rates_are_stored_and_read_as_they_are(tmp_path: Path, shuffle: str) -> None:
    path = write(tmp_path / "x.csv", RATES)
    prepare(options(path, tmp_path / "set", shuffle=shuffle))
    dataset = PreparedSet(tmp_path / "set").dataset("train")
    loader = Loader(dataset, 16, ahead=0)
    assert loader.soft_labels
    found = {
        int(row): label
        for batch in loader.batches()
        for row, label in zip(batch.indices, batch.labels, strict=True)
    }
    assert [found[r + 2] for r in range(98)] == np.array(RATES, np.float32).tolist()


def test_parquet_has_the_labels_of_csv(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    names = [str(i) for i in range(98)]
    parquet.write_table(pa.table({"rate": RATES, "c": names}), tmp_path / "x.parquet")
    prepare(options(write(tmp_path / "x.csv", RATES), tmp_path / "a"))
    prepare(options(tmp_path / "x.parquet", tmp_path / "b"))
    first, second = ((tmp_path / s / "train" / "labels.npy").read_bytes() for s in "ab")
    assert first == second


@pytest.mark.parametrize("rate", [1.5, -0.1, "", "nan", 2])
def test_labels_that_are_no_probability_are_named(tmp_path: Path, rate: object) -> None:
    path = write(tmp_path / "x.csv", [0.5, rate, 1])
    with pytest.raises(DataError, match=r"line 3, column rate: .*expected a number from 0 to 1"):
        prepare(options(path, tmp_path / "set"))
    assert prepare(options(path, tmp_path / "set", on_error="skip")).splits == {"train": 2}


def test_a_rate_that_was_not_asked_for_says_how(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", [0.5, 1])
    asked = options(path, tmp_path / "set", schema=replace(SCHEMA, soft_labels=False))
    with pytest.raises(DataError, match=r"'0\.5' found, expected 0 or 1; soft_labels = true"):
        prepare(asked)


def test_rates_have_no_threshold() -> None:
    content = {"label": "y", "categorical": ["c"], "threshold": 0.5, "soft_labels": True}
    with pytest.raises(ConfigError, match="cannot be combined with soft_labels"):
        Schema.from_dict(content)


def test_sets_keep_rates_and_other_formats_refuse_them(tmp_path: Path) -> None:
    prepare(options(write(tmp_path / "x.csv", RATES), tmp_path / "set"))
    assert convert([str(tmp_path / "set"), str(tmp_path / "copy"), "--to", "set"]) == 0
    labels = [np.load(tmp_path / s / "train" / "labels.npy") for s in ("set", "copy")]
    np.testing.assert_array_equal(*labels)
    dataset = PreparedSet(tmp_path / "set").dataset("train")
    with pytest.raises(DataError, match="expected 0 or 1"):
        check_rows(dataset)


def rows(**changes: object) -> Dataset:
    values: dict[str, object] = {
        "labels": np.zeros(3, np.uint8),
        "dense": np.zeros((3, 2), np.float32),
        "ids": np.zeros((3, 1), np.int32),
        "table_rows": (4,),
        "origin": "x",
    }
    return Dataset(**values | changes)  # type: ignore[arg-type]


BAD_ROWS = {
    "label": ({"labels": np.array([0, 255, 1], np.uint8)}, "sample 1: the label 255"),
    "nan": ({"dense": np.full((3, 2), np.nan)}, "row 0, column 0 of the dense values: nan"),
    "large": ({"dense": np.full((3, 2), 1e39)}, "row 0, column 0 of the dense values: 1e"),
    "count": ({"dense": np.array([[0, 0], [0, -1], [0, 0]]), "has_counts": True}, "row 1.*: -1"),
    "fraction": ({"dense": np.full((3, 2), 0.5), "log_transform": True}, "an integer"),
    "id": ({"ids": np.array([[0], [0], [4]])}, "4"),
    "negative id": ({"ids": np.array([[0], [-1], [3]])}, "-1"),
}


@pytest.mark.parametrize(("changes", "said"), BAD_ROWS.values(), ids=list(BAD_ROWS))
def test_rows_that_cannot_be_trained_on_are_named(changes: dict[str, object], said: str) -> None:
    with pytest.raises((DataError, IndexError), match=said):
        check_rows(rows(**changes))


def test_loaders_name_a_dense_value_that_is_not_finite() -> None:
    dense = np.zeros((3, 2), np.float32)
    dense[2, 1] = np.inf
    with pytest.raises(DataError, match="x, row 2, dense column 1: inf found"):
        list(Loader(rows(dense=dense), 2, ahead=0).batches())
    counts = rows(dense=np.array([[0, 0], [-1, 0], [0, 0]]), log_transform=True, has_counts=True)
    with pytest.raises(DataError, match="x, row 1, dense column 0: -1 found"):
        list(Loader(counts, 2, ahead=0).batches())
