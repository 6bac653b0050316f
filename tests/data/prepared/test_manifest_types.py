"""Entries of other types in a manifest whose digest matches are named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from dlrmjit.data.prepared.manifest import CategoricalColumn, Manifest
from dlrmjit.errors import DataError

FACTS = {"bytes": 3, "sha256": "0" * 64}


def write(folder: Path, change: Any = None) -> None:
    """Write a manifest, changed, with the digest of its content."""
    columns = (CategoricalColumn("c", 5, "v.npz", has_rare_row=True, missing_row=1),)
    origin = {"kind": "own", "moments": {"d": [0.5, 2.0]}, "inputs": [{"name": "x", "rows": 3}]}
    Manifest(("d",), "none", columns, {"train": 3}, {"v.npz": FACTS}, origin).write(folder)
    if change is not None:
        path = folder / "manifest.json"
        content = json.loads(path.read_text())
        change(content)
        del content["digest"]
        text = json.dumps(content, sort_keys=True)
        content["digest"] = hashlib.sha256(text.encode()).hexdigest()
        path.write_text(json.dumps(content))


BAD = {
    "dense": lambda c: c.update(dense="d"),
    "dense names": lambda c: c.update(dense=[1]),
    "transform": lambda c: c.update(transform="log"),
    "no columns": lambda c: c.pop("categorical"),
    "column": lambda c: c.update(categorical=["c"]),
    "column name": lambda c: c["categorical"][0].update(name=3),
    "column key": lambda c: c["categorical"][0].update(other=3),
    "no rows": lambda c: c["categorical"][0].pop("rows"),
    "rows": lambda c: c["categorical"][0].update(rows=0),
    "rows as text": lambda c: c["categorical"][0].update(rows="5"),
    "many rows": lambda c: c["categorical"][0].update(rows=2**70),
    "true rows": lambda c: c["categorical"][0].update(rows=True),
    "missing row": lambda c: c["categorical"][0].update(missing_row=-2),
    "flag": lambda c: c["categorical"][0].update(is_multi=1),
    "splits": lambda c: c.update(splits=["train"]),
    "split rows": lambda c: c["splits"].update(train=-1),
    "files": lambda c: c.update(files=None),
    "facts": lambda c: c["files"].update({"v.npz": {"bytes": "3"}}),
    "digest": lambda c: c["files"]["v.npz"].update(sha256="0"),
    "origin": lambda c: c.update(origin=[]),
    "moments": lambda c: c["origin"].update(moments={"d": [0.5]}),
    "deviation": lambda c: c["origin"].update(moments={"d": [0.5, 0.0]}),
    "moments beyond float64": lambda c: c["origin"].update(moments={"d": [10**400, 1]}),
    "edges beyond float64": lambda c: c["origin"].update(edges={"d": {"e": [10**400]}}),
    "inputs": lambda c: c["origin"].update(inputs={"name": "x"}),
}


@pytest.mark.parametrize("change", BAD.values(), ids=list(BAD))
def test_entries_of_other_types_are_named(tmp_path: Path, change: Any) -> None:
    write(tmp_path, change)
    with pytest.raises(DataError, match=r"manifest\.json"):
        Manifest.read(tmp_path)


def test_the_manifest_itself_is_read(tmp_path: Path) -> None:
    write(tmp_path)
    assert Manifest.read(tmp_path).categorical[0].missing_row == 1


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 5000, '{"a":' * 300 + "1" + "}" * 300])
def test_text_that_is_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json"):
        Manifest.read(tmp_path)
