"""Rows of every kind mean the same: CSV, Parquet, DataFrames, Arrow tables and mappings."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrmjit import DLRM, ModelConfig
from dlrmjit.data.dataset import Dataset, concatenate
from dlrmjit.data.prepare.inputs.base import Wanted
from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.open_rows import encode_any
from dlrmjit.data.prepared.preprocessing import Preprocessing
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import CategoricalColumn, DenseColumn, Schema
from dlrmjit.errors import ConfigError

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pandas = pytest.importorskip("pandas")

SCHEMA = Schema(
    "clicked",
    (DenseColumn("age", "standardise"), DenseColumn("price", "log1p", missing=2.0)),
    (
        CategoricalColumn("user"),
        CategoricalColumn("shop"),
        CategoricalColumn("tags", "|"),
        CategoricalColumn("note", hash_rows=7),
    ),
    missing=("NA", "?"),
)
NAMES = SCHEMA.features
TEXTS = st.one_of(
    st.sampled_from(["", "NA", "?", "ann", "bob", "Käse", 'says "no"', "a,b", "1.0", "1"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0|"), max_size=6),
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "age": st.none() | st.integers(-(2**31), 2**31),
            "price": st.none() | st.floats(-1e30, 1e30, allow_nan=False),
            "user": st.none() | TEXTS,
            "shop": st.integers(0, 12),
            "tags": st.lists(st.sampled_from(["x", "y", "new", "NA"]), max_size=3),
            "note": st.none() | TEXTS,
        }
    ),
    min_size=1,
    max_size=30,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


@pytest.fixture(scope="module")
def model(folder: Path) -> DLRM:
    """A model with the preprocessing of a small set."""
    lines = ["clicked,age,price,user,shop,tags,note"]
    lines += [f"{i % 2},{i},{i / 3},{'ann' if i % 3 else '1'},{i % 9},x|y,n{i}" for i in range(40)]
    (folder / "log.csv").write_text("\n".join(lines))
    out = folder / "set"
    prepare(PrepareOptions((folder / "log.csv",), out, schema=SCHEMA, split=SplitRule("none")))
    rules = PreparedSet(out).dataset("train").preprocessing
    assert rules is not None
    model = DLRM(
        ModelConfig(table_rows=rules.table_rows, embedding_dim=4, mlp_bottom=(2, 4), mlp_top=(4, 1))
    )
    model.preprocessing = rules
    return model


def as_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(NAMES)
        for row in rows:
            shown = {**row, "tags": "|".join(row["tags"])}
            writer.writerow(["" if shown[name] is None else shown[name] for name in NAMES])
    return path


def every_kind(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The same rows in each form that can be scored."""
    joined = [{**row, "tags": "|".join(row["tags"])} for row in rows]
    table = arrow.table(
        {name: [row[name] for row in joined] for name in NAMES},
        schema=arrow.schema(
            [
                ("age", arrow.int64()),
                ("price", arrow.float64()),
                *((name, arrow.string()) for name in ("user",)),
                ("shop", arrow.int32()),
                *((name, arrow.string()) for name in ("tags", "note")),
            ]
        ),
    )
    parquet.write_table(table, folder / "rows.parquet", row_group_size=7)
    kinds = {
        "csv": as_csv(folder / "rows.csv", rows),
        "parquet": str(folder / "rows.parquet"),
        "arrow": table,
        "batch": table.to_batches()[0] if len(table.to_batches()) == 1 else table,
        "pandas": table.to_pandas(),  # whole numbers become floats where some are missing
        "objects": pandas.DataFrame(joined, columns=NAMES).astype(object),
        "dicts": rows,
        "texts": [
            {name: "" if row[name] is None else str(row[name]) for name in NAMES} for row in joined
        ],
        "records": table.to_pandas().to_dict("records"),
    }
    try:
        import polars
    except ImportError:
        return kinds
    return {**kinds, "polars": polars.from_arrow(table)}


def encoded(rows: Any, rules: Preprocessing) -> Dataset:
    return concatenate([part.rows for part in encode_any(rows, rules, Wanted(labels=False))])


@settings(max_examples=25, deadline=None)
@given(rows=ROWS)
def test_rows_of_every_kind_have_the_same_ids_values_and_scores(
    rows: list[dict[str, Any]], model: DLRM, folder: Path
) -> None:
    kinds = every_kind(folder, rows)
    assert model.preprocessing is not None
    expected = encoded(kinds["csv"], model.preprocessing)
    scores = model.predict(kinds["csv"])
    for name, given_rows in kinds.items():
        found = encoded(given_rows, model.preprocessing)
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


def test_a_model_without_preprocessing_says_so(model: DLRM) -> None:
    with pytest.raises(ConfigError, match="was not trained from a prepared set"):
        DLRM(model.config).predict([{"age": 1}])
