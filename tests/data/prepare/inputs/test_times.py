"""Dates and times of a schema: the same values in every form, wrong ones named or skipped."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlrmjit.data.prepare.inputs.csv import CsvFormat
from dlrmjit.data.prepare.inputs.parquet import ParquetFormat
from dlrmjit.data.prepare.inputs.times import Times
from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.preprocessing import Preprocessing
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import CategoricalColumn, DenseColumn, Schema
from dlrmjit.errors import ConfigError, DataError

SCHEMA = Schema(
    "y",
    (DenseColumn("t", time="seconds"),),
    (CategoricalColumn("h", time="hour"), CategoricalColumn("c")),
    missing=("NA",),
)
MOMENT = 1511568000  # 2017-11-25 00:00 UTC


def write(folder: Path, *lines: str) -> Path:
    path = folder / "log.csv"
    path.write_text("\n".join(("y,t,h,c", *lines)) + "\n")
    return path


def prepared(folder: Path, path: Path, **options: Any) -> PreparedSet:
    out = folder / "set"
    rule = SplitRule("none")
    prepare(PrepareOptions((path,), out, schema=SCHEMA, split=rule, shuffle="none", **options))
    return PreparedSet(out)


def test_a_set_has_numbers_and_parts_of_the_calendar(tmp_path: Path) -> None:
    lines = [
        "0,2017-11-25,2017-11-25 23:00:00+01:00,a",
        "1, NA ,,a",
        '0,"2017-11-25T00:00:01.5Z",2017-11-25 22:59,a',
    ]
    made = prepared(tmp_path, write(tmp_path, *lines))
    rows = made.dataset("train")
    assert rows.dense[:, 0].tolist() == np.float32([MOMENT, 0, MOMENT + 1.5]).tolist()
    assert rows.ids[:, 0].tolist() == [2, 1, 2]
    rules = Preprocessing.of_set(made.folder, made.manifest)
    assert rules is not None
    assert rules.texts(0)[2:] == [b"22"]


def test_what_is_no_time_is_named_or_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, "0,2017-11-25,,a", "1,,noon,b", "1,1511568000,,b", "0,,2017-11-25,c")
    with pytest.raises(DataError, match=r"line 3, column h: 'noon' found, expected a date or time"):
        prepared(tmp_path, path)
    assert prepared(tmp_path, path, on_error="skip").manifest.splits["train"] == 2


def test_a_bad_time_of_parquet_is_named_or_skipped(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    times = arrow.array([0, 2**62, None]).cast(arrow.timestamp("ms"))
    table = arrow.table({"y": [0, 1, 1], "t": times, "h": ["2017-11-25"] * 3, "c": ["a"] * 3})
    parquet.write_table(table, tmp_path / "x.parquet")
    source = ParquetFormat((tmp_path / "x.parquet",), SCHEMA)
    (parsed,) = (source.parse(chunk) for chunk in source.chunks(0, 0, 0))
    assert (parsed.rows, parsed.skipped) == (2, 1)
    assert "row 2, column t: a timestamp[ms]" in parsed.explain(1)


@pytest.mark.parametrize("kind", ["int64", "float64", "time32", "binary"])
def test_a_column_of_another_type_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    kinds = {"time32": arrow.time32("s"), "binary": arrow.binary()}
    column = arrow.nulls(1, kinds.get(kind) or getattr(arrow, kind)())
    parquet.write_table(
        arrow.table({"y": [0], "t": column, "h": column, "c": ["a"]}), tmp_path / "x.parquet"
    )
    with pytest.raises(DataError, match=r"column t has type .*, expected dates"):
        ParquetFormat((tmp_path / "x.parquet",), SCHEMA)


def test_objects_of_python_pandas_and_numpy() -> None:
    moment = dt.datetime(2017, 11, 25)
    zoned = moment.astimezone(dt.timezone(dt.timedelta(hours=5)))
    values = [
        moment.replace(tzinfo=dt.timezone.utc),
        moment.date(),
        np.datetime64("2017-11-25"),
        np.datetime64("2017-11-25T00:00:00.000000001"),
        None,
    ]
    times = Times.of_objects(values)
    assert times.seconds.tolist()[:4] == [MOMENT] * 4
    assert times.nanoseconds.tolist()[:4] == [0, 0, 0, 1]
    assert np.isnan(times.numbers("days")[4])
    assert Times.of_objects([zoned]).seconds.tolist() == [int(zoned.timestamp())]


WRONG = [
    ({"dense": [{"name": "d", "time": "hour"}]}, "'d': time must be one of seconds, days"),
    ({"categorical": [{"name": "c", "time": "seconds"}]}, "'c': time must be one of year, month"),
    ({"categorical": [{"name": "c", "time": "hour", "separator": "|"}]}, "has one value"),
    ({"categorical": [{"name": "c", "time": "hour", "missing": ["x"]}]}, "has one value"),
]


@pytest.mark.parametrize(("part", "said"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_time_of_a_schema_is_named(part: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Schema.from_dict({"label": "y", "categorical": ["a"], **part})


def test_a_schema_without_times_has_no_key_for_them() -> None:
    plain = Schema("y", (DenseColumn("d"),), (CategoricalColumn("c"),))
    content = plain.to_dict()
    assert "time" not in content["dense"][0] | content["categorical"][0]
    assert Schema.from_dict(content) == plain
    assert Schema.from_dict(SCHEMA.to_dict()) == SCHEMA


def test_a_quoted_time_is_read(tmp_path: Path) -> None:
    source = CsvFormat((write(tmp_path, '0,"2017-11-25","2017-11-25 05:00",a'),), SCHEMA, False, 2)
    (parsed,) = (source.parse(chunk) for chunk in source.chunks(0, 0, 0))
    assert parsed.columns[1].tolist() == [MOMENT]
    assert parsed.columns[3].tobytes() == b"5"


FAR = dt.timezone(dt.timedelta(hours=14))
OUTSIDE = (
    np.datetime64("10000-01-01"),
    np.datetime64("0000-12-31"),
    *(np.datetime64(sign * 2**62, unit) for unit in "YMWDhms" for sign in (1, -1)),
    np.datetime64(10**15, "Y"),
    dt.datetime(1, 1, 1, tzinfo=FAR),
    dt.datetime(9999, 12, 31, 23, tzinfo=dt.timezone(-dt.timedelta(hours=14))),
)


@pytest.mark.parametrize("value", OUTSIDE, ids=repr)
def test_a_time_outside_the_calendar_is_wrong_and_does_not_wrap_around(value: Any) -> None:
    assert Times.of_objects([value]).wrong.tolist() == [True]


@pytest.mark.parametrize(
    ("value", "seconds", "nanoseconds"),
    [
        (np.datetime64("1969-12", "M"), -31 * 86_400, 0),
        (np.datetime64(-1, "Y"), -365 * 86_400, 0),
        (np.datetime64("9999-12-31T23:59:59"), 253_402_300_799, 0),
        (np.datetime64("0001-01-01"), -62_135_596_800, 0),
        (np.datetime64(-1, "ns"), -1, 999_999_999),
        (np.datetime64(10**18 + 10**9, "as"), 1, 1),
        (np.datetime64(3, "25s"), 75, 0),
        (dt.datetime(1970, 1, 1, 14, tzinfo=FAR), 0, 0),
    ],
    ids=repr,
)
def test_times_of_every_unit(value: Any, seconds: int, nanoseconds: int) -> None:
    found = Times.of_objects([value])
    assert (found.seconds.tolist(), found.nanoseconds.tolist()) == ([seconds], [nanoseconds])
