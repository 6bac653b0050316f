"""Rules of a set that are not those of its columns are refused, with a digest that matches."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import Schema
from dlrmjit.errors import DlrmjitError

SCHEMA = {
    "label": "y",
    "dense": [{"name": "d", "transform": "standardise"}],
    "categorical": ["c", {"name": "k", "bins": 2}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = ["y,d,c,k", *(f"{i % 2},{i},u{i % 5},{i % 3}" for i in range(40))]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    options = PrepareOptions(
        (tmp_path / "x.csv",),
        tmp_path / "set",
        schema=Schema.from_dict(SCHEMA),
        split=SplitRule("none"),
    )
    prepare(options)
    return tmp_path / "set"


def change(folder: Path, how: Any) -> None:
    """Change the description of how the set was made, and sign it again."""
    rewrite(folder, lambda c: how(c["origin"], c["origin"]["options"]["schema"]))


def rewrite(folder: Path, how: Any) -> None:
    """Change the manifest of a set, and sign it again."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    how(content)
    del content["digest"]
    text = json.dumps(content, sort_keys=True)
    content["digest"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(content))


BAD = {
    "a column more": lambda o, s: s["categorical"].append({"name": "z"}),
    "a column less": lambda o, s: s["categorical"].pop(0),
    "another column": lambda o, s: s["categorical"][0].update(name="z"),
    "several values": lambda o, s: s["categorical"][0].update(separator="|"),
    "Criteo": lambda o, s: o.update(kind="criteo"),
    "no moments": lambda o, s: o.pop("moments"),
    "moments of another column": lambda o, s: o.update(moments={"e": [0.0, 1.0]}),
    "no edges": lambda o, s: o.pop("edges"),
    "edges of another type": lambda o, s: o.update(edges=[1.0]),
    "edges of another kind": lambda o, s: o.update(edges={"categorical": {"k": "ab"}}),
    "no schema": lambda o, s: o["options"].pop("schema"),
}


def test_the_rules_of_a_set_are_read(folder: Path) -> None:
    change(folder, lambda origin, schema: None)
    assert PreparedSet(folder).dataset("train").preprocessing is not None


@pytest.mark.parametrize("how", BAD.values(), ids=list(BAD))
def test_rules_of_other_columns_are_refused(folder: Path, how: Any) -> None:
    change(folder, how)
    with pytest.raises(DlrmjitError, match=r"^\S*set"):
        PreparedSet(folder).dataset("train")


COLUMNS = {
    "missing values in another row": {"missing_row": 0},
    "missing values beyond 32 bits": {"missing_row": 2**32},
    "no row of unknown values": {"shares_row": False},
    "hashed to the reserved rows": {"vocabulary": "", "rows": 2},
    "hashed beyond 32 bits": {"vocabulary": "", "rows": 2**31 + 1},
}


@pytest.mark.parametrize("facts", COLUMNS.values(), ids=list(COLUMNS))
def test_rows_that_values_cannot_get_are_refused(folder: Path, facts: Any) -> None:
    rewrite(folder, lambda content: content["categorical"][0].update(facts))
    with pytest.raises(DlrmjitError, match=r"^\S*set: .*'c'"):
        PreparedSet(folder).dataset("train")
