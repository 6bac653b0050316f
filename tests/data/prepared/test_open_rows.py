"""Rows of every kind mean the same: CSV, Parquet, DataFrames, Arrow tables and mappings."""

from __future__ import annotations

import csv
import datetime as dt
import sys
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrmjit import DLRM, ModelConfig
from dlrmjit.data.dataset import Dataset, concatenate
from dlrmjit.data.prepare.inputs.base import Wanted
from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.manifest import CategoricalColumn as ManifestColumn
from dlrmjit.data.prepared.open_rows import encode_any
from dlrmjit.data.prepared.preprocessing import Preprocessing
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import CategoricalColumn, DenseColumn, Schema
from dlrmjit.errors import ConfigError, DataError

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pandas = pytest.importorskip("pandas")

SCHEMA = Schema(
    "clicked",
    (
        DenseColumn("age", "standardise"),
        DenseColumn("price", "log1p", missing=2.0),
        DenseColumn("weight"),
        DenseColumn("seen", "standardise", time="seconds"),
    ),
    (
        CategoricalColumn("user"),
        CategoricalColumn("shop"),
        CategoricalColumn("tags", "|", multi=True),
        CategoricalColumn("sizes", "|", multi=True),
        CategoricalColumn("note", hash_rows=7),
        CategoricalColumn("code"),
        CategoricalColumn("cost"),
        CategoricalColumn("member"),
        CategoricalColumn("born"),
        CategoricalColumn("opened"),
        CategoricalColumn("hour", time="hour"),
        CategoricalColumn("weekday", time="weekday"),
    ),
    missing=("NA", "?", "nan"),
)
NAMES = SCHEMA.names
TEXTS = st.one_of(
    st.sampled_from(["", "NA", "nan", " NA", "NaN", "ann", "Käse", 'says "no"', "a,b", "1.0", "1"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0|"), max_size=6),
)
TIMES = st.datetimes(dt.datetime(1678, 1, 1), dt.datetime(2261, 1, 1))
MINUTES = TIMES.map(lambda moment: moment.replace(second=0, microsecond=0))
VALUES = {
    "clicked": st.integers(0, 1),
    "age": st.none() | st.integers(-(2**31), 2**31),
    "price": st.none() | st.floats(-1e30, 1e30, allow_nan=False),
    "weight": st.none() | st.decimals(-(10**6), 10**6, places=3),
    "seen": st.none() | TIMES,
    "user": st.none() | TEXTS,
    "shop": st.none() | st.integers(0, 12) | st.just(10_000_000_000),
    "tags": st.lists(st.sampled_from(["x", "y", "new", "NA"]), max_size=3),
    "sizes": st.lists(st.integers(-1, 3), max_size=3),
    "note": st.none() | TEXTS,
    "code": st.none() | st.sampled_from([b"c1", b"c2", "cé".encode(), b"NA"]),
    "cost": st.none() | st.decimals(0, 4, places=2),
    "member": st.none() | st.booleans(),
    "born": st.none() | st.dates(dt.date(1960, 1, 1), dt.date(1960, 1, 9)),
    "opened": st.none() | MINUTES,
    "hour": st.none() | TIMES,
    "weekday": st.none() | st.dates(dt.date(1700, 1, 1), dt.date(2200, 1, 1)),
}
ROWS = st.lists(st.fixed_dictionaries(VALUES), min_size=1, max_size=20)
TYPES: dict[str, list[Any]] = {
    "clicked": [arrow.uint8(), arrow.bool_(), arrow.float16(), arrow.string()],
    "age": [arrow.int64(), arrow.float64(), arrow.dictionary(arrow.int8(), arrow.int64())],
    "price": [arrow.float64(), arrow.large_string()],
    "weight": [arrow.decimal128(12, 3), arrow.float64(), arrow.string()],
    "seen": [
        arrow.timestamp("us"),
        arrow.timestamp("ns"),
        arrow.timestamp("us", "Asia/Shanghai"),
        arrow.string(),
    ],
    "user": [arrow.string(), arrow.large_string(), arrow.string_view(), arrow.binary()],
    "shop": [arrow.int64(), arrow.float64(), arrow.uint64(), arrow.string()],
    "tags": [
        arrow.list_(arrow.string()),
        arrow.large_list(arrow.dictionary(arrow.int8(), arrow.string())),
        arrow.string(),
    ],
    "sizes": [arrow.list_(arrow.int8()), arrow.list_(arrow.float32()), arrow.string()],
    "note": [arrow.string(), arrow.dictionary(arrow.int32(), arrow.string())],
    "code": [arrow.binary(), arrow.large_binary(), arrow.string(), arrow.binary_view()],
    "cost": [arrow.decimal128(6, 2), arrow.string(), arrow.decimal128(20, 2)],
    "member": [arrow.bool_(), arrow.dictionary(arrow.int8(), arrow.string())],
    "born": [arrow.date32(), arrow.date64(), arrow.string()],
    "opened": [
        arrow.timestamp("s"),
        arrow.timestamp("ms"),
        arrow.timestamp("us"),
        arrow.timestamp("ns"),
    ],
    "hour": [arrow.timestamp("ns"), arrow.timestamp("us", "UTC"), arrow.large_string()],
    "weekday": [arrow.date32(), arrow.date64(), arrow.timestamp("s"), arrow.string()],
}
CHOICES = st.fixed_dictionaries({name: st.sampled_from(kinds) for name, kinds in TYPES.items()})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


@pytest.fixture(scope="module")
def model(folder: Path) -> DLRM:
    """A model with the preprocessing of a small set."""
    days = [dt.datetime(1960, 1, 1 + i % 7, i % 24, i) for i in range(40)]
    rows = [
        {
            "clicked": i % 2,
            "age": i,
            "price": i / 3,
            "weight": Decimal(i) / 8,
            "seen": day,
            "user": "ann" if i % 3 else "1",
            "shop": i % 9 or 10_000_000_000,
            "tags": ["x", "y"],
            "sizes": [i % 3, 1],
            "note": f"n{i}",
            "code": b"c1",
            "cost": Decimal(i % 5).quantize(Decimal("0.01")),
            "member": bool(i % 2),
            "born": day.date(),
            "opened": day,
            "hour": day,
            "weekday": day.date(),
        }
        for i, day in enumerate(days)
    ]
    source, out = as_csv(folder / "log.csv", rows), folder / "set"
    prepare(PrepareOptions((source,), out, schema=SCHEMA, split=SplitRule("none")))
    rules = PreparedSet(out).dataset("train").preprocessing
    assert rules is not None
    config = ModelConfig(rules.table_rows, 4, mlp_bottom=(4, 4), mlp_top=(4, 1))
    model = DLRM(config)
    model.preprocessing = rules
    return model


def shown(value: Any) -> str:
    """Return a value as a field of CSV."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "|".join(map(shown, value))
    if isinstance(value, bytes):
        return value.decode()
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def as_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(NAMES)
        writer.writerows([shown(row[name]) for name in NAMES] for row in rows)
    return path


def column(values: list[Any], kind: Any) -> Any:
    """Return values as an Arrow array of a type that can hold them."""
    value_kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
    is_text = any(getattr(arrow.types, f"is_{k}")(value_kind) for k in TEXT_TYPES)
    if is_text:
        values = [None if value is None else shown(value) for value in values]
    elif arrow.types.is_timestamp(kind):
        values = [None if v is None else dt.datetime.fromisoformat(str(v)) for v in values]
    elif arrow.types.is_boolean(kind):
        values = [None if v is None else bool(v) for v in values]
    elif arrow.types.is_floating(kind):
        values = [None if v is None else float(v) for v in values]
    elif arrow.types.is_binary(kind) or kind in (arrow.large_binary(), arrow.binary_view()):
        values = [v.encode() if isinstance(v, str) else v for v in values]
    array = arrow.array(values, value_kind)
    return array.dictionary_encode().cast(kind) if value_kind is not kind else array


TEXT_TYPES = ("string", "large_string", "string_view")


def every_kind(
    folder: Path, rows: list[dict[str, Any]], types: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Yield the same rows in each form that can be scored."""
    table = arrow.table({name: column([r[name] for r in rows], types[name]) for name in NAMES})
    parquet.write_table(table, folder / "rows.parquet", row_group_size=7)
    frame = table.to_pandas()  # whole numbers become floats where some are missing
    yield "parquet", str(folder / "rows.parquet")
    yield "arrow", table
    yield "batch", table.to_batches()[0]
    yield "pandas", frame
    yield "pandas with types of Arrow", table.to_pandas(types_mapper=pandas.ArrowDtype)
    yield "mappings", rows
    yield "mappings of text", [{name: shown(row[name]) for name in NAMES} for row in rows]
    yield "mappings of Arrow", table.to_pylist()
    yield "mappings of pandas", frame.to_dict("records")
    try:
        import polars
    except ImportError:
        return
    columns = [  # polars has no dates of 64 bits
        array.cast(arrow.date32()) if arrow.types.is_date64(array.type) else array
        for array in table.columns
    ]
    polar = polars.from_arrow(arrow.table(columns, NAMES))
    yield "polars", polar
    yield "mappings of polars", polar.to_dicts()


def encoded(rows: Any, rules: Preprocessing) -> Dataset:
    return concatenate([part.rows for part in encode_any(rows, rules, Wanted())])


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, types=CHOICES)
def test_rows_of_every_kind_have_the_same_labels_ids_values_and_scores(
    rows: list[dict[str, Any]], types: dict[str, Any], model: DLRM, folder: Path
) -> None:
    assert model.preprocessing is not None
    path = as_csv(folder / "rows.csv", rows)
    expected, scores = encoded(path, model.preprocessing), model.predict(path)
    assert expected.labels.tolist() == [row["clicked"] for row in rows]
    for name, given_rows in every_kind(folder, rows, types):
        found = encoded(given_rows, model.preprocessing)
        assert found.labels.tobytes() == expected.labels.tobytes(), name
        assert found.dense.tobytes() == expected.dense.tobytes(), name
        assert found.ids.tobytes() == expected.ids.tobytes(), name
        for (s, ours), (t, theirs) in zip(found.multi, expected.multi, strict=True):
            assert s == t
            for a, b in zip(ours.bags(), theirs.bags(), strict=True):
                assert a.tobytes() == b.tobytes(), name
        assert model.predict(given_rows, batch_size=5).tobytes() == scores.tobytes(), name


def test_what_is_no_row_is_refused(model: DLRM) -> None:
    for rows in ({"age": 1}, 3, (row for row in [])):
        with pytest.raises(ConfigError, match="give a path, a DataFrame, an Arrow table or a list"):
            model.predict(rows)


ROW: dict[str, Any] = {**dict.fromkeys(NAMES), "tags": [], "sizes": []}
BEYOND = pandas.Timestamp(np.datetime64("20000-01-01", "s"))  # Python's years end at 9999
WRONG = {
    "half of a pair": ({"user": "\ud800"}, "column user: .* expected Unicode text"),
    "a number of too many digits": ({"shop": 10**5000}, "column shop: .* of fewer digits"),
    "an exponent": ({"shop": Decimal("1E+400000000")}, "column shop: .* of fewer digits"),
    "a small exponent": ({"shop": Decimal("1E-400000000")}, "column shop: .* of fewer digits"),
    "no number": ({"age": "\ud800"}, "column age: .* expected a number or nothing"),
    "beyond float32": ({"age": 10**400}, "column age: .* expected a finite number"),
    "a complex number": ({"age": np.complex64(1 + 2j)}, "column age: .* expected a number or None"),
    "a span as a number": ({"age": np.timedelta64(5, "D")}, "column age: .* a number or None"),
    "a span as a category": ({"user": np.timedelta64(5, "D")}, "column user: .* expected text"),
    "a time of no calendar": ({"user": np.datetime64(2**60, "h")}, "column user: .* calendar"),
    "a time of pandas": ({"user": BEYOND}, "column user: .* calendar"),
    "a time of pandas with a zone": (
        {"user": BEYOND.tz_localize("UTC")},
        "column user: a time of no calendar found .* calendar",
    ),
    "a moment of pandas": ({"hour": BEYOND}, "column hour: .* expected a date or time"),
    "a moment of pandas with a zone": (
        {"hour": BEYOND.tz_localize("UTC")},
        "column hour: a time of no calendar found",
    ),
    "a number as a time": ({"hour": 1511568000}, "column hour: .* expected a date or time"),
    "text that is no time": ({"seen": "noon"}, "column seen: 'noon' found .* a date or time"),
    "a span of time": ({"user": dt.timedelta(1)}, "column user: .* expected text, bytes, a number"),
}


@pytest.mark.parametrize(("values", "said"), WRONG.values(), ids=list(WRONG))
def test_a_value_without_a_meaning_is_refused_by_row_and_column(
    values: dict[str, Any], said: str, model: DLRM
) -> None:
    previous = sys.get_int_max_str_digits() if hasattr(sys, "get_int_max_str_digits") else 0
    if "shop" in values and not previous:
        pytest.skip("Python writes numbers of any size")
    with pytest.raises(DataError, match=f"(?s)row 1, {said}"):
        model.predict([ROW, {**ROW, **values}])


def test_objects_of_polars_are_refused(model: DLRM) -> None:
    polars = pytest.importorskip("polars")
    columns = {name: ["1"] for name in NAMES if name != "user"}
    frame = polars.DataFrame(columns).with_columns(
        polars.Series("user", [object()], dtype=polars.Object)
    )
    with pytest.raises(DataError, match="column user has type Object, whose values have no mean"):
        model.predict(frame)


def test_a_path_with_a_nul_is_refused(model: DLRM) -> None:
    with pytest.raises(DataError, match="is no path"):
        model.predict("a\0b")


def test_a_model_without_preprocessing_says_so(model: DLRM) -> None:
    with pytest.raises(ConfigError, match="was not trained from a prepared set"):
        DLRM(model.config).predict([{"age": 1}])


SMALL = Preprocessing(
    Schema("y", (), (CategoricalColumn("tags", multi=True, hash_rows=7),)),
    {},
    (ManifestColumn("tags", 7, is_multi=True),),
    (None,),
)


def bags_of(rows: Any) -> list[Any]:
    return list(encode_any(rows, SMALL, Wanted(labels=False)))


@pytest.mark.parametrize("bag", [{"a", "b"}, frozenset("ab"), set()])
def test_a_set_is_no_bag_because_it_has_no_order(bag: Any) -> None:
    with pytest.raises(DataError, match=r"tags: .* expected a list, because the order of a set"):
        bags_of([{"tags": bag}])


def test_an_empty_table_needs_the_columns_too() -> None:
    assert bags_of(pandas.DataFrame({"tags": []})) == bags_of([]) == []
    with pytest.raises(DataError, match="no columns called 'tags'"):
        bags_of(pandas.DataFrame({"other": []}))
    with pytest.raises(DataError, match="no columns called 'tags'"):
        bags_of(arrow.table({"other": []}))


@pytest.mark.parametrize("rows", [{}, set()])
def test_an_empty_thing_that_has_no_rows_is_refused(rows: Any) -> None:
    with pytest.raises(ConfigError, match="found where rows are expected"):
        bags_of(rows)


def test_an_integer_of_a_dataframe_that_no_type_holds_is_refused() -> None:
    with pytest.raises(DataError, match="give a column values of one type"):
        bags_of(pandas.DataFrame({"tags": [10**400]}))


def test_columns_of_frames_have_any_names() -> None:
    polars = pytest.importorskip("polars")
    for name, frame in (
        ("0", pandas.DataFrame({0: ["a"], 1: ["b"]})),
        ("*", polars.DataFrame({"*": ["a"], "b": ["b"]})),
        ("^.*$", polars.DataFrame({"^.*$": ["a"], "b": ["b"]})),
    ):
        rules = replace(
            SMALL,
            schema=Schema("y", (), (CategoricalColumn(name, hash_rows=7),)),
            columns=(ManifestColumn(name, 7),),
        )
        (rows,) = encode_any(frame, rules, Wanted(labels=False))
        (expected,) = encode_any([{name: "a"}], rules, Wanted(labels=False))
        assert rows.rows.ids.tolist() == expected.rows.ids.tolist()


def test_a_type_of_polars_that_arrow_does_not_know_is_refused() -> None:
    polars = pytest.importorskip("polars")
    with pytest.raises(DataError, match="give a column values of one type"):
        bags_of(polars.DataFrame({"tags": polars.Series([1], dtype=polars.Int128)}))
