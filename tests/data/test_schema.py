"""Schemas: files are read, or refused with an error that names file, column and key."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from dlrmjit.data import schema_file as module
from dlrmjit.data.schema import CategoricalColumn, DenseColumn, Schema
from dlrmjit.data.schema_file import read_schema
from dlrmjit.errors import ConfigError

TEXT = """
label = "rating"
threshold = 3.5
dense = ["age", { name = "price", transform = "log1p", missing = 2 }]
categorical = ["user", { name = "genres", separator = "|", min_count = 2 }]
"""
MEANT = Schema(
    "rating",
    (DenseColumn("age"), DenseColumn("price", "log1p", 2)),
    (CategoricalColumn("user"), CategoricalColumn("genres", "|", min_count=2)),
    threshold=3.5,
)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TOML is read from Python 3.11 on")
def test_toml(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(TEXT)
    assert read_schema(tmp_path / "s.toml") == MEANT


def test_json_and_back(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(MEANT.to_dict()))
    assert read_schema(tmp_path / "s.json") == MEANT
    assert MEANT.names == ("rating", "age", "price", "user", "genres")
    assert [column.is_multi for column in MEANT.categorical] == [False, True]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TOML is read from Python 3.11 on")
def test_line_ends_of_toml_are_its_own(tmp_path: Path) -> None:
    """A carriage return alone ends no line of TOML, and is no character of its strings."""
    path = tmp_path / "s.toml"
    path.write_bytes(TEXT.replace("\n", "\r\n").encode())
    assert read_schema(path) == MEANT
    path.write_bytes(TEXT.replace("\n", "\r").encode())
    with pytest.raises(ConfigError, match=r"s\.toml is not valid"):
        read_schema(path)


def test_toml_without_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise ImportError

    monkeypatch.setattr(module, "_toml", absent)
    (tmp_path / "s.toml").write_text(TEXT)
    with pytest.raises(ConfigError, match=r"s\.toml: TOML needs Python 3\.11; write it as JSON"):
        read_schema(tmp_path / "s.toml")


WRONG = {
    '{"label": "y"}': "categorical must list at least one column",
    '{"categorical": ["a"]}': "label is missing",
    '{"label": 1, "categorical": ["a"]}': "label must be text, not 1",
    '{"label": "y", "categorical": "a"}': "categorical must be a list, not 'a'",
    '{"label": "y", "categorical": [1]}': "expected a name or keys and values, not 1",
    '{"label": "y", "categorical": ["y"]}': "'y' is named twice",
    '{"label": "y", "categorical": ["a"], "colour": 1}': "unknown key 'colour'; expected",
    '{"label": "y", "categorical": [{"nam": "a"}]}': "categorical: unknown key 'nam'",
    '{"label": "y", "categorical": [{"name": "a", "multi": 1}]}': "multi must be true or false",
    '{"label": "y", "categorical": [{"name": "a", "min_count": true}]}': "must be a whole number",
    '{"label": "y", "categorical": [{"name": "a", "min_count": 0}]}': "'a': min_count must be at",
    '{"label": "y", "categorical": [{"name": "a", "hash_rows": 9, "min_count": 3}]}': "be combined",
    '{"label": "y", "categorical": [{"name": "a", "separator": ","}]}': "differ from the delimiter",
    '{"label": "y", "categorical": [{"name": "a", "separator": "::"}]}': "one ASCII character",
    '{"label": "y", "categorical": ["a"], "delimiter": "\\""}': "delimiter must be one ASCII",
    '{"label": "y", "categorical": ["a"], "missing": "NA"}': "missing must be a list, not 'NA'",
    '{"label": "y", "categorical": ["a"], "missing": [1]}': "missing must list texts, not 1",
    '{"label": "y", "categorical": [{"name": "a", "max_rows": 1}]}': "'a': max_rows must be at",
    '{"label": "y", "categorical": ["a"], "columns": ["y"]}': "'a' is missing from columns",
    '{"label": "y", "categorical": ["a"], "dense": [{"name": "d", "transform": "log"}]}': (
        "'d': transform must be one of none, log1p, standardise, piecewise_linear, not 'log'"
    ),
    '{"label": "y", "categorical": ["a"], "threshold": NaN}': "NaN is no JSON value",
    '{"label": "y", "categorical": ["a"], "threshold": 1e400}': "threshold must be a finite number",
    '{"label": "y", "categorical": ["a"], "dense": [{"name": "d", "missing": -1e400}]}': (
        "missing of column 'd' must be a finite number"
    ),
    "[1]": "must hold keys and values",
    "{": "is not valid",
}


@pytest.mark.parametrize(("text", "said"), WRONG.items(), ids=range(len(WRONG)))
def test_a_wrong_key_or_value_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_schema(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_that_are_no_schema(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"s\.json cannot be read: No such file"):
        read_schema(tmp_path / "s.json")
    (tmp_path / "s.json").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_schema(tmp_path / "s.json")
    (tmp_path / "s.txt").write_text(TEXT)
    with pytest.raises(ConfigError, match=r"\.toml or \.json"):
        read_schema(tmp_path / "s.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "schema.json")
    with pytest.raises(ConfigError, match="is a pipe, socket or device"):
        read_schema(tmp_path / "schema.json")


LISTED = {"label": "y", "lists": "query", "categorical": ["item"]}


def test_a_role_names_the_column_of_lists() -> None:
    by_role = {"label": "y", "categorical": [{"name": "query", "role": "list"}, "item"]}
    schema = Schema.from_dict(by_role)
    assert schema == Schema.from_dict(LISTED) == Schema.from_dict(schema.to_dict())
    assert schema.has_list_column
    assert schema.features == ("item",)
    assert not Schema.from_dict(LISTED | {"lists": "item"}).has_list_column


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relevance": True, "lists": ""}, "name the column of lists"),
        ({"relevance": True, "soft_labels": True}, "give one of them"),
        ({"relevance": True, "threshold": 2.0}, "give one of them"),
        ({"weight": "w"}, "remove weight or lists"),
        ({"lists": "y"}, "named twice"),
        ({"categorical": [{"name": "query", "separator": "|"}]}, "has one value"),
        ({"categorical": ["item", {"name": "other", "role": "list"}]}, "both name lists"),
        ({"categorical": ["item", {"name": "query", "role": "key"}]}, "role = 'list' alone"),
        ({"columns": ["y", "item"]}, "missing from columns"),
    ],
)
def test_lists_that_contradict_others_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schema.from_dict(LISTED | changes)
