"""Sets written from data sets of any origin: their rows, bags and days."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dlrmjit.data.loader import Loader
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.prepared.writer import days_of, write_set
from dlrmjit.errors import DataError
from tests.data.formats.builders import (
    bags_in,
    bags_of_rows,
    generated_dataset,
    rows_of,
    write_criteo_text,
)


def test_sets_of_any_data_set(tmp_path: Path) -> None:
    write_criteo_text(tmp_path / "train.txt")
    prepare(PrepareOptions((tmp_path / "train.txt",), tmp_path / "set"))
    dataset = PreparedSet(tmp_path / "set").dataset("test")
    write_set(tmp_path / "new", {"train": dataset}, "test")
    again = PreparedSet(tmp_path / "new")
    assert (rows_of(again.dataset("train")) == rows_of(dataset)).all()
    with pytest.raises(DataError, match="not split by days"):
        days_of(again)


@pytest.mark.parametrize("dense", [0, 2])
@pytest.mark.parametrize("n", [1, 500])
def test_sets_of_multi_valued_columns_and_of_no_dense_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int, dense: int
) -> None:
    monkeypatch.setattr("dlrmjit.data.prepared.writer._ROWS", 64)
    dataset = generated_dataset(n, np.random.default_rng(n), fixed=False, dense=dense)
    write_set(tmp_path / "set", {"train": dataset, "test": dataset.cut(n // 3, n)}, "test")
    prepared = PreparedSet(tmp_path / "set")
    assert [column.is_multi for column in prepared.manifest.categorical] == [False, True] * 2
    for split, start in (("train", 0), ("test", n // 3)):
        again = prepared.dataset(split)
        assert again.dense.shape == (n - start, dense)
        assert bags_of_rows(again, 0, len(again)) == bags_of_rows(dataset, start, n)
        batches = list(Loader(again, 64).batches())
        whole = [[bag for batch in batches for bag in bags_in(batch, s)] for s in range(4)]
        assert tuple(whole) == bags_of_rows(dataset, start, n)
        assert (np.concatenate([b.dense for b in batches]) == dataset.dense[start:]).all()


def test_damaged_offsets_are_refused(tmp_path: Path) -> None:
    dataset = generated_dataset(50, np.random.default_rng(1), fixed=False)
    write_set(tmp_path / "set", {"train": dataset}, "test")
    offsets = np.load(tmp_path / "set" / "train" / "offsets_1.npy", mmap_mode="r+")
    offsets[7] = 10**9
    offsets.flush()
    with pytest.raises(DataError, match="offsets of categorical column 1 are damaged at row 6"):
        list(Loader(PreparedSet(tmp_path / "set").dataset("train"), 16).batches())
