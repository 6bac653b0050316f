"""Parquet as an input: the bytes of CSV, bad rows, and files that do not match their schema."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlrmjit.data.prepare.inputs.arrow_values import ArrowValues
from dlrmjit.data.prepare.options import SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.schema import CategoricalColumn, DenseColumn, Schema
from dlrmjit.errors import ConfigError, DataError
from tests.data.prepare.builders import (
    LISTS,
    Row,
    arrays,
    environment,
    python,
    schema_options,
    write_parquet,
)


def test_parquet_gives_the_bytes_that_csv_gives(
    csv_path: Path, rows: list[Row], tmp_path: Path
) -> None:
    path = write_parquet(tmp_path / "log.parquet", rows)
    prepare(schema_options(csv_path, tmp_path / "a"))
    prepare(schema_options(path, tmp_path / "b", schema=LISTS))
    assert arrays(tmp_path / "a") == arrays(tmp_path / "b")


def test_arrows_pool_releases_its_memory(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlrmjit.data.prepare.inputs.parquet._ROWS", 150)
    path = write_parquet(tmp_path / "log.parquet", rows)
    released = []

    class Pool:
        def release_unused(self) -> None:
            released.append(True)

    monkeypatch.setattr(pytest.importorskip("pyarrow"), "default_memory_pool", Pool)
    prepare(schema_options(path, tmp_path / "set", schema=LISTS))
    assert len(released) >= len(rows) / 150


def test_bad_rows_are_named_or_skipped(rows: list[Row], tmp_path: Path) -> None:
    some = [dict(row) for row in rows[:500]]
    some[450]["price"] = "inf"
    path = write_parquet(tmp_path / "log.parquet", some)
    asked = schema_options(path, tmp_path / "set", schema=LISTS, split=SplitRule("none"))
    with pytest.raises(DataError, match="row 451, column price: inf found, expected a finite"):
        prepare(asked)
    assert prepare(replace(asked, on_error="skip")).splits == {"train": 499}


def wrong_text(form: str) -> Any:
    """Values of two bytes, of which the second's are not UTF-8, in a file of this form."""
    arrow = pytest.importorskip("pyarrow")
    sizes, bytes_of_all = np.array([0, 2, 4, 6], np.int32), b"abc\xa4de"
    buffers = [None, arrow.py_buffer(sizes.tobytes()), arrow.py_buffer(bytes_of_all)]
    text = arrow.Array.from_buffers(arrow.string(), 3, buffers)
    if form == "dictionary":
        return text.dictionary_encode()
    return arrow.ListArray.from_arrays([0, 1, 2, 3], text) if form == "lists" else text


@pytest.mark.parametrize("form", ["plain", "dictionary", "lists"])
def test_text_that_is_not_utf8_is_a_bad_row_as_in_csv(tmp_path: Path, form: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    path = tmp_path / "log.parquet"
    table = arrow.table({"clicked": [0, 1, 1], "film": wrong_text(form)})
    pytest.importorskip("pyarrow.parquet").write_table(table, path)
    schema = of_columns(CategoricalColumn("film", multi=form == "lists"))
    asked = schema_options(path, tmp_path / "set", schema=schema, split=SplitRule("none"))
    with pytest.raises(DataError, match=r"row 2, column film: text that is not UTF-8"):
        prepare(asked)
    assert prepare(replace(asked, on_error="skip")).splits == {"train": 2}


@pytest.mark.parametrize("form", ["dictionary", "lists"])
def test_text_that_only_later_rows_have_is_not_theirs(form: str) -> None:
    """Slices of a table share dictionaries and the values of lists."""
    arrow = pytest.importorskip("pyarrow")
    text = wrong_text("plain")
    at = np.r_[np.zeros(40_000, np.int8), 1]
    column = arrow.DictionaryArray.from_arrays(arrow.array(at), text)
    if form == "lists":
        column = arrow.ListArray.from_arrays(np.arange(len(at) + 1, dtype=np.int32), text.take(at))
    values = ArrowValues(arrow)
    assert not values.not_utf8(column.slice(0, 40_000)).any()
    assert values.not_utf8(column.slice(39_990)).tolist() == [False] * 10 + [True]


def test_lists_whose_offsets_decrease_are_refused() -> None:
    arrow = pytest.importorskip("pyarrow")
    column = arrow.ListArray.from_arrays([0, 2, 1, 3], arrow.array(["a", "b", "c"]))
    with pytest.raises(arrow.ArrowInvalid, match="decrease"):
        ArrowValues(arrow).not_utf8(column)


def of_columns(*columns: CategoricalColumn) -> Schema:
    return Schema("clicked", categorical=columns)


OTHER_SCHEMAS = {
    "lists": (of_columns(CategoricalColumn("genres")), "multi = true"),
    "no lists": (of_columns(CategoricalColumn("user", multi=True)), "not lists"),
    "missing": (of_columns(CategoricalColumn("who")), "no columns called 'who'"),
    "text": (
        replace(LISTS, dense=(DenseColumn("note"),), categorical=LISTS.categorical[:2]),
        "num",
    ),
}


@pytest.mark.parametrize(("schema", "said"), OTHER_SCHEMAS.values(), ids=list(OTHER_SCHEMAS))
def test_files_that_do_not_match_their_schema(
    rows: list[Row], tmp_path: Path, schema: Schema, said: str
) -> None:
    path = write_parquet(tmp_path / "log.parquet", rows[:50])
    with pytest.raises(DataError, match=said):
        prepare(schema_options(path, tmp_path / "set", schema=schema))


def test_truncated_files_and_files_without_a_schema(rows: list[Row], tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "log.parquet", rows[:50])
    with pytest.raises(ConfigError, match="--schema FILE"):
        prepare(schema_options(path, tmp_path / "set", schema=None))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="not a complete Parquet file"):
        prepare(schema_options(path, tmp_path / "set", schema=LISTS))


def test_parquet_and_text_are_not_mixed(csv_path: Path, rows: list[Row], tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "log.parquet", rows[:50])
    asked = schema_options(path, tmp_path / "set", schema=LISTS)
    with pytest.raises(ConfigError, match=r"log\.csv is not; prepare them separately"):
        prepare(replace(asked, inputs=(path, csv_path)))


WITHOUT_ARROW = """
import sys
sys.modules["pyarrow"] = None
from dlrmjit.cli.commands.prepare import main
sys.exit(main(sys.argv[1:]))
"""


def test_parquet_without_pyarrow(tmp_path: Path) -> None:
    path, schema = tmp_path / "log.parquet", tmp_path / "s.json"
    path.write_bytes(b"PAR1 and so on")
    schema.write_text('{"label": "y", "categorical": ["a"]}')
    command = python(WITHOUT_ARROW, path, "--schema", schema, "--out", tmp_path / "set")
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'dlrmjit[data]', or write the data as CSV" in done.stderr
    assert done.stderr.count("\n") == 1
