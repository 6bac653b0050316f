"""Manifests: damaged sets are recognised, and the keys on disk stay the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.data.prepare.options import SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.manifest import NAME, Manifest, file_facts
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


HEADERS = {
    "dense of bytes": ("dense", lambda array: array.view(np.uint8)),
    "dense of complex numbers": ("dense", lambda array: array[:, :12].copy().view(np.complex64)),
    "dense of few columns": ("dense", lambda array: array[:, :5]),
    "dense of few rows": ("dense", lambda array: array[:-1]),
    "dense without rows": ("dense", lambda array: array.reshape(-1)),
    "ids of floats": ("ids", lambda array: array.view(np.float32)),
    "ids of truth values": ("ids", lambda array: array > 0),
    "ids of few columns": ("ids", lambda array: array[:, :5]),
    "ids of more rows": ("ids", lambda array: np.concatenate([array, array])),
    "labels of text": ("labels", lambda array: array.view("S1")),
    "labels of few rows": ("labels", lambda array: array[:-1]),
    "labels of two columns": ("labels", lambda array: np.stack([array, array], 1)),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_file_whose_header_is_not_that_of_the_set(folder: Path, kind: str) -> None:
    """Its length and digests are right; only type or shape are others."""
    name, change = HEADERS[kind]
    path = folder / "train" / f"{name}.npy"
    np.save(path, change(np.load(path)))
    manifest = Manifest.read(folder)
    replace(manifest, files={**manifest.files, f"train/{name}.npy": file_facts(path)}).write(folder)
    with pytest.raises(DataError, match="train"):
        PreparedSet(folder).dataset("train")


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
