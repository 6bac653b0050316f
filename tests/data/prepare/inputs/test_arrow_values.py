"""The meaning of Arrow types: the text of CSV, numbers rounded once, others refused by name."""

from __future__ import annotations

import datetime as dt
import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlrmjit.data.prepare.inputs.arrow_values import ArrowValues
from dlrmjit.data.prepare.inputs.parquet import ParquetFormat
from dlrmjit.data.schema import CategoricalColumn, DenseColumn, Schema
from dlrmjit.errors import DataError

pa = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

VALUES = ArrowValues(pa)
NOON = dt.datetime(2017, 11, 25, 12, 0)
D = decimal.Decimal

TEXTS: dict[str, tuple[Any, list[bytes | None]]] = {
    "integral floats": (
        pa.array([1e10, 7.0, -0.0, -2e19, 1e22]),
        [b"10000000000", b"7", b"0", b"-20000000000000000000", b"10000000000000000000000"],
    ),
    "other floats": (
        pa.array([0.1, 1.5e-7, 12345678901.5]),
        [b"0.1", b"1.5e-07", b"12345678901.5"],
    ),
    "infinity": (pa.array([np.inf, -np.inf]), [b"inf", b"-inf"]),
    "nan and null": (pa.array([np.nan, None]), [None, None]),
    "float32": (pa.array(np.array([0.1, 16777216], np.float32)), [b"0.1", b"16777216"]),
    "float16": (pa.array(np.array([0.1, 2048], np.float16)), [b"0.1", b"2048"]),
    "uint64": (pa.array([2**64 - 1, 0], pa.uint64()), [b"18446744073709551615", b"0"]),
    "int8": (pa.array([-1, None], pa.int8()), [b"-1", None]),
    "boolean": (pa.array([True, False, None]), [b"true", b"false", None]),
    "decimal": (pa.array([D("1.50"), None]), [b"1.50", None]),
    "small decimal": (pa.array([D("0.0000000001")], pa.decimal128(12, 10)), [b"0.0000000001"]),
    "decimal of hundreds": (pa.array([D("1E+2")], pa.decimal128(3, -2)), [b"100"]),
    "text": (pa.array(["a", "", "é", None]), [b"a", b"", "é".encode(), None]),
    "large text": (pa.array(["a"], pa.large_string()), [b"a"]),
    "text view": (pa.array(["a", "b"], pa.string_view())[1:], [b"b"]),
    "binary": (pa.array([b"\xff\0", None]), [b"\xff\0", None]),
    "binary view": (pa.array([b"\xff\0"], pa.binary_view()), [b"\xff\0"]),
    "fixed binary": (pa.array([b"\xff\0"], pa.binary(2)), [b"\xff\0"]),
    "date": (pa.array([NOON.date()]), [b"2017-11-25"]),
    "time": (pa.array([dt.time(1, 2, 3)], pa.time32("s")), [b"01:02:03"]),
    "timestamp": (pa.array([NOON], pa.timestamp("s")), [b"2017-11-25 12:00:00"]),
    "zone": (
        pa.array([NOON], pa.timestamp("us", "Asia/Shanghai")),
        [b"2017-11-25 20:00:00.000000+0800"],
    ),
    "dictionary": (pa.array(["a", None, "a"]).dictionary_encode(), [b"a", None, b"a"]),
    "dictionary of floats": (pa.array([1e10, 0.5]).dictionary_encode(), [b"10000000000", b"0.5"]),
    "runs": (pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"]), [b"a", b"a", b"b"]),
    "nulls": (pa.nulls(2), [None, None]),
}


@pytest.mark.parametrize(("array", "expected"), TEXTS.values(), ids=list(TEXTS))
def test_the_text_of_a_category(array: Any, expected: list[bytes | None]) -> None:
    VALUES.check_category(pa.field("c", array.type), CategoricalColumn("c"), "x")
    found = VALUES.texts(array)
    assert found.type == pa.large_binary()
    assert found.to_pylist() == expected


NUMBERS: dict[str, tuple[Any, list[float]]] = {
    "integers beyond 2^53": (
        pa.array([1511544070000000000, 2**60 + 1, None]),
        [1.51154407e18, float(2**60 + 1), np.nan],
    ),
    "uint64": (pa.array([2**64 - 1], pa.uint64()), [2.0**64]),
    "decimal": (
        pa.array([D("0.1"), D("-123456789012345678.901234567890")], pa.decimal128(38, 12)),
        [0.1, float(D("-123456789012345678.901234567890"))],
    ),
    "boolean": (pa.array([True, False, None]), [1, 0, np.nan]),
    "float16": (pa.array(np.array([0.5], np.float16)), [0.5]),
    "float32": (pa.array(np.array([0.1], np.float32)), [float(np.float32(0.1))]),
    "nan and infinity": (pa.array([np.nan, np.inf]), [np.nan, np.inf]),
    "dictionary": (pa.array([1.5, None]).dictionary_encode(), [1.5, np.nan]),
    "nulls": (pa.nulls(1), [np.nan]),
}


@pytest.mark.parametrize(("array", "expected"), NUMBERS.values(), ids=list(NUMBERS))
def test_numbers_are_rounded_once(array: Any, expected: list[float]) -> None:
    VALUES.check_number(pa.field("d", array.type), "x")
    found = VALUES.numbers(array)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)


def test_decimals_are_rounded_to_the_nearest_number() -> None:
    rng = np.random.RandomState(0)
    digits = [int("".join(map(str, rng.randint(0, 10, 37)))) for _ in range(2000)]
    values = [D(n).scaleb(-int(rng.randint(0, 38))) for n in digits]
    for scale in (0, 9, 37):
        some = [v for v in values if -v.as_tuple().exponent <= scale]  # type: ignore[operator]
        fits = [v for v in some if v.adjusted() + 1 + scale <= 38]
        array = pa.array(fits, pa.decimal128(38, scale))
        np.testing.assert_array_equal(VALUES.numbers(array), [float(v) for v in fits])


LISTS: dict[str, Any] = {
    "lists": pa.array([[9], [1, 2], None, [3, None]]),
    "large lists": pa.array([[9], [1, 2], None, [3, None]], pa.large_list(pa.int16())),
    "of dictionaries": pa.ListArray.from_arrays(
        pa.array([0, 1, 3, 3, 5]), pa.array(["9", "1", "2", "3", None]).dictionary_encode()
    ),
    "views": pa.array([[9], [1, 2], None, [3, None]], pa.list_view(pa.float64())),
}


@pytest.mark.parametrize("array", LISTS.values(), ids=list(LISTS))
def test_lists_of_any_kind(array: Any) -> None:
    VALUES.check_category(pa.field("c", array.type), CategoricalColumn("c", multi=True), "x")
    counts, values = VALUES.lists(array[1:])
    assert counts.tolist() == [2, 0, 2]
    assert VALUES.texts(values).to_pylist() == [b"1", b"2", b"3", None]


def test_lists_of_a_fixed_size() -> None:
    array = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2))[1:]
    counts, values = VALUES.lists(array)
    assert counts.tolist() == [0, 2]
    assert values.to_pylist() == [3, 4]


NO_CATEGORIES = {
    "struct": pa.struct([("a", pa.int64())]),
    "map": pa.map_(pa.string(), pa.int64()),
    "duration": pa.duration("s"),
    "interval": pa.month_day_nano_interval(),
    "union": pa.dense_union([pa.field("a", pa.int64())]),
    "extension": pa.uuid(),
}


@pytest.mark.parametrize("kind", NO_CATEGORIES.values(), ids=list(NO_CATEGORIES))
def test_other_types_are_refused_by_name(kind: Any) -> None:
    with pytest.raises(DataError, match="x: column c has type") as refused:
        VALUES.check_category(pa.field("c", kind), CategoricalColumn("c"), "x")
    assert str(kind) in str(refused.value)
    nested = pa.list_(kind)
    with pytest.raises(DataError, match="x: column c has type list"):
        VALUES.check_category(pa.field("c", nested), CategoricalColumn("c", multi=True), "x")
    with pytest.raises(DataError, match=r"x: column d has type .*, expected numbers"):
        VALUES.check_number(pa.field("d", kind), "x")


ZONED = pa.timestamp("us", "UTC")
NO_NUMBERS = [pa.binary(), pa.list_(pa.int64()), pa.date32(), ZONED, pa.time32("s")]


@pytest.mark.parametrize("kind", NO_NUMBERS, ids=str)
def test_what_is_no_number_is_refused_by_name(kind: Any) -> None:
    with pytest.raises(DataError, match=r"column d has type .*, expected numbers"):
        VALUES.check_number(pa.field("d", kind), "x")


def write(path: Path, **columns: Any) -> tuple[Path, ...]:
    parquet.write_table(pa.table({"y": [0, 1, 0, 1], **columns}), path)
    return (path,)


def test_times_beyond_the_calendar_are_refused(tmp_path: Path) -> None:
    times = pa.array([0, 1, 2, 2**62]).cast(pa.timestamp("ms"))
    paths = write(tmp_path / "x.parquet", c=times)
    source = ParquetFormat(paths, Schema("y", categorical=(CategoricalColumn("c"),)))
    with pytest.raises(DataError, match=r"x\.parquet, column c: .* calendar"):
        [source.parse(chunk) for chunk in source.chunks(0, 0, 0)]


def test_an_unknown_time_zone_is_refused(tmp_path: Path) -> None:
    paths = write(tmp_path / "x.parquet", c=pa.array([1] * 4, pa.timestamp("us", "Nowhere/X")))
    source = ParquetFormat(paths, Schema("y", categorical=(CategoricalColumn("c"),)))
    with pytest.raises(DataError, match=r"column c: .*Nowhere/X"):
        [source.parse(chunk) for chunk in source.chunks(0, 0, 0)]


def test_a_threshold_is_compared_in_float64(tmp_path: Path) -> None:
    paths = write(tmp_path / "x.parquet", r=pa.array([16777216.0, 16777217.0, 1.0, 3e7]))
    schema = Schema("r", (), (CategoricalColumn("y"),), threshold=16777216.0)
    source = ParquetFormat(paths, schema)
    labels = [source.parse(chunk).columns[0] for chunk in source.chunks(0, 0, 0)]
    assert np.concatenate(labels).tolist() == [0, 1, 0, 1]


def test_a_value_beyond_float32_is_a_bad_row(tmp_path: Path) -> None:
    schema = Schema("y", (DenseColumn("d"),), (CategoricalColumn("y2"),))
    paths = write(tmp_path / "x.parquet", d=pa.array([1.0, 1e39, np.inf, -1e39]), y2=list("abcd"))
    source = ParquetFormat(paths, schema)
    (parsed,) = [source.parse(chunk) for chunk in source.chunks(0, 0, 0)]
    assert (parsed.lines, parsed.skipped) == (4, 3)
    assert "row 2, column d: 1e+39 found, expected a finite number" in parsed.explain(1)


@pytest.mark.parametrize("kind", ["string_view", "binary_view"])
def test_a_bad_row_is_left_out_of_columns_of_views(kind: str, tmp_path: Path) -> None:
    user = pa.array([b"a", b"b"], pa.binary()).cast(getattr(pa, kind)())
    parquet.write_table(pa.table({"y": [1, 7], "u": user}), tmp_path / "rows.parquet")
    schema = Schema("y", categorical=(CategoricalColumn("u"),))
    source = ParquetFormat((tmp_path / "rows.parquet",), schema)
    (parsed,) = (source.parse(chunk) for chunk in source.chunks(0, 0, 0))
    assert (parsed.rows, parsed.skipped) == (1, 1)
    assert "row 2, column y: 7 found" in parsed.explain(1)
