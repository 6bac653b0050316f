"""CSV as an input: schemas, headers, and bad lines, which are named or skipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dlrmjit.data.prepare.inputs.base import ParsedChunk
from dlrmjit.data.prepare.inputs.csv import CsvFormat
from dlrmjit.data.prepare.options import SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import CategoricalColumn, DenseColumn, Schema
from dlrmjit.errors import ConfigError, DataError
from tests.data.prepare.builders import (
    COLUMNS,
    CSV_ROWS,
    Row,
    csv_text,
    order_of,
    schema_options,
)

GOOD = b"1,2.5,ann,0,drama|crime,30,hi\n"
HOSTILE = {
    "columns": (b"1,2,3\n", "3 columns, expected 7 (when, price, user"),
    "more columns": (GOOD[:-1] + b",\n", "8 columns, expected 7"),
    "empty": (b"\n", "1 columns, expected 7"),
    "not utf-8": (GOOD.replace(b"ann", b"\xff\xfe"), "not UTF-8"),
    "cut-off utf-8": (GOOD.replace(b"hi", b"\xe6\x97"), "not UTF-8"),
    "a number": (GOOD.replace(b"2.5", b"2.5x"), "column price: '2.5x' found, expected a number"),
    "not a number": (GOOD.replace(b"2.5", b"nan"), "column price: 'nan' found"),
    "large": (GOOD.replace(b"2.5", b"1e39"), "column price: '1e39' found"),
    "label": (GOOD.replace(b",0,", b",2,"), "column clicked: '2' found, expected 0 or 1"),
    "no label": (GOOD.replace(b",0,", b",,"), "column clicked: '' found, expected 0 or 1"),
    "line end": (GOOD.replace(b"2.5", b"2\r5"), r"column price: '2\r5' found"),
    "open quote": (GOOD.replace(b"ann", b'"ann'), "column user: a quoted field must end"),
    "after a quote": (GOOD.replace(b"ann", b'"a"nn'), "column user: a quoted field must end"),
    "long": (b"9" * 20_000 + b"\n", "longer than 9000 bytes"),
}


@pytest.mark.parametrize(("line", "said"), HOSTILE.values(), ids=list(HOSTILE))
@pytest.mark.parametrize("at", [0, 40])
def test_bad_lines_are_named_or_skipped(tmp_path: Path, line: bytes, said: str, at: int) -> None:
    path = tmp_path / "bad.csv"
    head = (",".join(COLUMNS) + "\n").encode()
    path.write_bytes(b"".join([head, GOOD * at, line, GOOD * (40 - at)]))
    asked = schema_options(path, tmp_path / "set")
    with pytest.raises(DataError) as caught:
        prepare(asked)
    assert f"bad.csv, line {at + 2}" in str(caught.value)
    assert said in str(caught.value)
    assert not (tmp_path / "set").exists()
    manifest = prepare(replace(asked, on_error="skip", split=SplitRule("none")))
    assert manifest.splits["train"] == 40
    assert manifest.origin["skipped_lines"] == 1
    assert f"line {at + 2}" in manifest.origin["first_skipped"]


def test_no_dense_column_a_threshold_and_no_header(tmp_path: Path) -> None:
    path = tmp_path / "ratings.tsv"
    path.write_text("ann\t5\tx\nbob\t3.5\ty\nann\t1\t\n")
    schema = Schema(
        "stars",
        categorical=(CategoricalColumn("user"), CategoricalColumn("film")),
        threshold=3.5,
        delimiter="\t",
        columns=("user", "stars", "film"),
    )
    asked = schema_options(path, tmp_path / "set", schema=schema, shuffle="none")
    prepare(replace(asked, split=SplitRule("none")))
    dataset = PreparedSet(tmp_path / "set").dataset("train")
    assert dataset.dense.shape == (3, 0)
    assert dataset.labels.tolist() == [1, 0, 0]
    assert dataset.ids.tolist() == [[2, 2], [3, 3], [2, 1]]


def test_headers_that_lack_a_column_or_have_it_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for head, times in ((b"when,price,user", "no"), (b"when,price,user,clicked,clicked", "2")):
        path.write_bytes(head + b"\n")
        with pytest.raises(DataError, match=f"a.csv, line 1: {times} columns called 'clicked'"):
            prepare(schema_options(path, tmp_path / "set"))


@pytest.mark.parametrize("header", ['""y,c', "y,c\rx"])
def test_a_header_that_is_no_csv_is_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "log.csv").write_text(f"{header}\n1,a\n", newline="")
    schema = Schema("y", categorical=(CategoricalColumn("c"),))
    with pytest.raises(DataError, match=r"log\.csv, line 1: the columns' names cannot be read"):
        CsvFormat((tmp_path / "log.csv",), schema, False, 1)


def test_every_file_may_have_its_columns_in_another_order(rows: list[Row], tmp_path: Path) -> None:
    parts = (tmp_path / "a.csv", tmp_path / "b.csv")
    parts[0].write_bytes(csv_text(rows[:700]))
    parts[1].write_bytes(csv_text(rows[700:], columns=COLUMNS[::-1]))
    asked = schema_options(parts[0], tmp_path / "set", split=SplitRule("files", test_files=1))
    prepare(replace(asked, inputs=parts))
    assert order_of(tmp_path / "set", "test") == list(range(700, CSV_ROWS))


def test_csv_needs_a_schema(csv_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--schema FILE"):
        prepare(schema_options(csv_path, tmp_path / "set", schema=None))


@pytest.mark.parametrize("header", [b"", b"c,d,y\n", b'"c",d,y\n'])
def test_a_byte_order_mark_is_no_part_of_the_first_field(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"\xef\xbb\xbf" + header + b"a,1,0\na,2,1\nb,3,1\n")
    schema = Schema(
        "y",
        (DenseColumn("d"),),
        (CategoricalColumn("c"),),
        columns=() if header else ("c", "d", "y"),
    )
    (parsed,) = parsed_chunks(path, schema)
    assert parsed.columns[-1].tobytes() == b"aab"
    assert parsed.lines == 3 + bool(header)


def parsed_chunks(path: Path, schema: Schema) -> list[ParsedChunk]:
    source = CsvFormat((path,), schema, False, 2)
    return [source.parse(chunk) for chunk in source.chunks(0, 0, 0)]
