"""Arrays of other programs whose values no model can have: named, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlrmjit.convert import main as convert
from dlrmjit.data.dataset import Dataset, MultiHot
from dlrmjit.data.formats.mlperf_bin import records_of
from dlrmjit.data.prepared.writer import write_set
from dlrmjit.errors import DataError

ROWS = 12
Change = Callable[[Any], None]


def _to(value: float, at: int = 3) -> Change:
    def change(array: Any) -> None:
        array.reshape(-1)[at] = value

    return change


def refused(source: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Convert to a set, which must fail in one sentence and write nothing; return the sentence."""
    assert convert([str(source), str(out), "--to", "set"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("dlrmjit: error: ")
    assert not out.exists()
    return error


def _bin(folder: Path, change: Change, column: slice) -> Path:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, (ROWS, 40)).astype(np.int32)
    change(part := rows[:, column].copy())
    rows[:, column] = part
    for split in ("train", "val", "test"):
        rows.tofile(folder / f"x_{split}.bin")
    np.savez(folder / "x_fea_count.npz", counts=np.full(26, 9))
    return folder / "x_train.bin"


@pytest.mark.parametrize("value", [-1, 2, 255])
def test_labels_of_a_bin_file(tmp_path, capsys, value):
    source = _bin(tmp_path, _to(value), slice(0, 1))
    assert "label" in refused(source, tmp_path / "set", capsys)


def test_ids_of_a_bin_file(tmp_path, capsys):
    source = _bin(tmp_path, _to(-1), slice(14, 40))
    assert "index -1 is outside" in refused(source, tmp_path / "set", capsys)


def _days(folder: Path, **changes: Any) -> Path:
    """Write two of TorchRec's days, of which ``changes`` are arrays of the second."""
    rng = np.random.default_rng(0)
    parts = {
        "dense": rng.random((ROWS, 13)).astype(np.float32),
        "labels": rng.integers(0, 2, (ROWS, 1)).astype(np.int32),
        "sparse": rng.integers(0, 9, (ROWS, 26)).astype(np.int64),
    }
    for day, arrays in enumerate((parts, {**parts, **changes})):
        for name, value in arrays.items():
            np.save(folder / f"day_{day}_{name}.npy", value)
    return folder


@pytest.mark.parametrize("value", [-1, 2, 256, 2**32, 0.5, np.nan])
def test_labels_of_a_day(tmp_path, capsys, value):
    labels = np.zeros((ROWS, 1))
    labels[5] = value
    error = refused(_days(tmp_path, labels=labels), tmp_path / "set", capsys)
    assert f"day_1, sample 5: the label {float(value)} found" in error


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_dense_of_a_day(tmp_path, capsys, value):
    dense = np.zeros((ROWS, 13), np.float32)
    dense[5, 2] = value
    error = refused(_days(tmp_path, dense=dense), tmp_path / "set", capsys)
    assert f"day_1, row 5, column 2 of the dense values: {value} found" in error


WRONG_IDS = {
    "fractions": (np.full((ROWS, 26), 0.5), "float64 of shape (12, 26) found, expected integers"),
    "truth values": (np.full((ROWS, 26), True), "bool of shape (12, 26) found, expected integers"),
    "text": (np.full((ROWS, 26), "a"), "holds <U1, expected numbers"),
    "a column too few": (np.zeros((ROWS, 25), np.int64), "has shape (12, 25), expected (N, 26)"),
    "a row too few": (np.zeros((ROWS - 1, 26), np.int64), "12 labels, but 12 rows of dense"),
    "negative": (np.full((ROWS, 26), -1), "index -1 is outside"),
}


@pytest.mark.parametrize("name", WRONG_IDS)
def test_ids_of_a_day(tmp_path, capsys, name):
    array, said = WRONG_IDS[name]
    assert said in refused(_days(tmp_path, sparse=array), tmp_path / "set", capsys)


def test_ids_beyond_the_32_bits_of_a_format_are_refused(tmp_path, capsys):
    sparse = np.zeros((ROWS, 26), np.int64)
    sparse[4, 7] = 2**31 + 5  # a hash, which the tables of raw days have room for
    source, out = tmp_path / "set", tmp_path / "out"
    assert convert([str(_days(tmp_path, sparse=sparse)), str(source), "--to", "set"]) == 0
    assert convert([str(source), str(out), "--to", "multi-hot"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "column 7" in error
    assert f"{2**31 + 5} found, but the format has 32 bits" in error
    assert not list(out.glob("*"))


@pytest.mark.parametrize(("part", "dense_type"), [("ids", "f8"), ("dense", "f8"), ("dense", "f4")])
def test_records_of_values_beyond_32_bits_are_refused(part, dense_type):
    rng = np.random.default_rng(0)
    arrays = {"dense": rng.integers(0, 9, (ROWS, 13)).astype(dense_type)}
    arrays["ids"] = rng.integers(0, 9, (ROWS, 26))
    arrays[part][4, 7] = 2**31
    dataset = Dataset(np.zeros(ROWS), arrays["dense"], arrays["ids"], (2**40,) * 26)
    with pytest.raises(DataError, match=rf"{part}.*, row 104, column 7: 2147483648"):
        records_of(dataset, 100)


@pytest.mark.parametrize("offsets", [[1, 2, 3], [0, 3, 2, 3], [0, 1, 4, 3]], ids=str)
def test_damaged_offsets_of_a_set(tmp_path, capsys, offsets):
    """Slices by them would leave out ids, or take those of another row."""
    n = len(offsets) - 1
    column = MultiHot(np.arange(3), np.r_[np.arange(n), 3])
    none = np.zeros((n, 0), np.int32)
    rows = Dataset(np.zeros(n), np.zeros((n, 1)), none, (3,), multi=((0, column),))
    write_set(tmp_path / "set", {"train": rows}, "made")
    np.save(tmp_path / "set/train/offsets_0.npy", np.array(offsets))
    assert "damaged" in refused(tmp_path / "set", tmp_path / "out", capsys)


WRONG_COLUMNS = {
    "a row too few": (np.zeros((ROWS - 1, 2), np.int32), "11 rows of categorical column 3"),
    "a row too many": (np.zeros((ROWS + 1, 2), np.int32), "13 rows of categorical column 3"),
    "negative": (np.full((ROWS, 2), -1), "categorical column 3: id -1 found"),
    "fractions": (np.zeros((ROWS, 2), np.float32), "float32 of shape (12, 2) found"),
    "no matrix": (np.zeros(ROWS, np.int32), "int32 of shape (12,) found"),
    "beyond all tables": (np.full((ROWS, 2), 2**40), "column 3: ids up to 1099511627776 found"),
}


@pytest.mark.parametrize("name", WRONG_COLUMNS)
def test_a_multi_hot_column_of_a_day(tmp_path, capsys, name):
    folder, (array, said) = _days(tmp_path), WRONG_COLUMNS[name]
    for day in range(2):
        (folder / f"day_{day}_sparse.npy").unlink()
        columns = {str(s): np.zeros((ROWS, 1), np.int32) for s in range(26)}
        columns |= {"3": array} if day else {"3": np.zeros((ROWS, 2), np.int32)}
        np.savez(folder / f"day_{day}_sparse_multi_hot.npz", **columns)
    assert said in refused(folder, tmp_path / "set", capsys)
