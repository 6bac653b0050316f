"""The reference's day files: read, written, and equal to the reference's."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.cli.commands.convert import main as convert
from dlrmjit.data.formats.criteo_text import read_criteo_text
from dlrmjit.data.formats.dlrm_days import DayNames, has_days, read_days
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.pipeline import prepare
from tests.data.formats.builders import (
    REAL,
    rows_of,
)

# SHA-256 of what facebookresearch/dlrm 090956e writes for the 8,000 real rows with
# --memory-map --data-randomize=none --max-ind-range=10000000;
# python -m bench.formats runs it and prints these digests
REAL_DAYS = {
    "kaggle": "e6834273485ac00c4e96abcb2064713112168a5910ef312a4a782f59586e9c84",
    "terabyte": "7dc4f3a90b6d105858fc0123696a889bdd53fa3342873fdd6dd1b214b82eefaf",
}


def test_days_round_trip(home: Path, whole: np.ndarray, tmp_path: Path) -> None:
    raw = tmp_path / "train.txt"
    assert not has_days(raw, True)
    assert convert([str(home / "set"), str(raw), "--to", "days"]) == 0
    assert has_days(raw, True)
    train, test = read_days(raw, kaggle=True)
    assert (rows_of(train) == whole[: len(train)]).all()
    assert (rows_of(test) == whole[len(train) : len(train) + len(test)]).all()
    with np.load(DayNames(raw, True).day(0)) as day:
        assert {day[name].dtype for name in day.files} == {np.dtype(np.float64)}
    with np.load(DayNames(raw, True).shared_file("fea_dict_3")) as values:
        hashes = read_criteo_text(home / "train.txt").hashes[:, 3]
        first = list(dict.fromkeys(hashes.tolist()))
        assert values["unique"].view(np.uint32).tolist() == first


def digest_of_arrays(paths: Iterable[Path]) -> str:
    """As ``bench.formats`` has it: of names, types, shapes and values, whatever compressed them."""
    found = hashlib.sha256()
    for path in paths:
        with np.load(path) as arrays:
            for name in sorted(arrays.files):
                values = arrays[name]
                found.update(f"{name} {values.dtype} {values.shape}".encode())
                found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


@pytest.mark.skipif(not REAL.exists(), reason=f"no real Criteo rows at {REAL}")
@pytest.mark.parametrize("data_set", list(REAL_DAYS))
def test_days_of_real_rows_equal_the_reference(tmp_path: Path, data_set: str) -> None:
    """Kaggle's one file divided into 7 days, and 24 files of Terabyte's names."""
    lines = gzip.decompress(REAL.read_bytes()).splitlines(keepends=True)
    kaggle = data_set == "kaggle"
    bounds = [0, len(lines)] if kaggle else [len(lines) * i // 24 for i in range(25)]
    texts = [tmp_path / f"text_{i}" for i in range(len(bounds) - 1)]
    for text, first, last in zip(texts, bounds, bounds[1:], strict=False):
        text.write_bytes(b"".join(lines[first:last]))
    asked = PrepareOptions(tuple(texts), tmp_path / "set", shuffle="none", max_ind_range=10_000_000)
    prepare(asked)
    names = DayNames(tmp_path / ("train.txt" if kaggle else "day"), kaggle)
    given = [str(tmp_path / "set"), str(names.raw), "--to", "days", "--data-set", data_set]
    assert convert(given) == 0
    written = [names.day(i) for i in range(names.days)]
    written += [names.shared_file(f"fea_dict_{j}") for j in range(26)]
    written += [names.shared_file("fea_count"), names.shared_file("day_count")]
    assert digest_of_arrays(written) == REAL_DAYS[data_set]
