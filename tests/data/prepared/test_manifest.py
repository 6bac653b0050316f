"""Manifests: damaged sets are recognised, and the keys on disk stay the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlrmjit.data.prepare.options import SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.manifest import NAME, Manifest
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.errors import DataError
from tests.data.prepare.builders import criteo_lines, criteo_options


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.txt").write_bytes(b"".join(criteo_lines(100, 1)))
    split = SplitRule("none")
    prepare(criteo_options(tmp_path / "train.txt", tmp_path / "set", min_count=2, split=split))
    return tmp_path / "set"


def test_a_manifest_edited_by_hand(folder: Path) -> None:
    original = (folder / NAME).read_text()
    (folder / NAME).write_text(original.replace('"rows": ', '"rows": 1', 1))
    with pytest.raises(DataError, match="changed after it was written"):
        PreparedSet(folder)
    (folder / NAME).write_text(json.dumps({"format": "other"}))
    with pytest.raises(DataError, match="prepare the data again"):
        PreparedSet(folder)


def test_a_damaged_file(folder: Path) -> None:
    Manifest.read(folder).check_contents(folder)
    ids = folder / "train" / "ids.npy"
    damaged = bytearray(ids.read_bytes())
    damaged[-1] ^= 1
    ids.write_bytes(damaged)
    with pytest.raises(DataError, match=r"ids\.npy is damaged"):
        Manifest.read(folder).check_contents(folder)
    ids.write_bytes(damaged[:-1])
    with pytest.raises(DataError, match="bytes, but"):
        PreparedSet(folder)
    ids.unlink()
    with pytest.raises(DataError, match=r"ids\.npy is missing"):
        PreparedSet(folder)


def test_the_keys_on_disk_are_those_of_version_1(folder: Path) -> None:
    content = json.loads((folder / NAME).read_text())
    assert set(content) == {
        *("format", "version", "dense", "transform", "categorical", "splits", "files"),
        *("origin", "digest"),
    }
    keys = {"name", "rows", "vocabulary", "is_multi", "shares_row"}
    assert all(set(column) == keys for column in content["categorical"])
    assert all(column["shares_row"] for column in content["categorical"])
    assert all(column.has_rare_row for column in Manifest.read(folder).categorical)
    assert content["origin"]["kind"] == "criteo"
