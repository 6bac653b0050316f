"""Numbers in bins and piecewise linear encoding: sets, models, resuming, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dlrmjit
from dlrmjit.data.dense_transform import bin_rows
from dlrmjit.data.loader import Loader
from dlrmjit.data.prepare.inputs.base import Wanted
from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepare.stages import bin_edges
from dlrmjit.data.prepared.open_rows import encode_any
from dlrmjit.data.prepared.preprocessing import Preprocessing
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import Schema
from dlrmjit.errors import ConfigError, DataError
from tests.data.prepare.builders import assert_resumes, contents

SCHEMA = Schema.from_dict(
    {
        "label": "y",
        "missing": ["?"],
        "dense": [
            "a",
            {"name": "b", "transform": "piecewise_linear", "bins": 4, "missing": 3.0},
            {"name": "d", "transform": "piecewise_linear", "bins": 3},
        ],
        "categorical": ["u", {"name": "a", "bins": 5}, {"name": "c", "bins": 300}],
    }
)
BINS_ONLY = Schema.from_dict({"label": "y", "categorical": [{"name": "a", "bins": 3}]})


def table(n: int = 400) -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        a, c, d = rng.standard_normal(), round(rng.exponential(), 2), 0 if rng.random() < 0.9 else i
        empty = {"a": i % 10 == 0, "b": i % 11 == 0, "c": i % 3 == 0}
        row = {"u": f"u{i % 7}", "a": a, "b": int(rng.integers(0, 9)), "c": c, "d": d}
        row = {k: None if empty.get(k) else v for k, v in row.items()}
        rows.append(row | {"y": int(a > 0)})
    return rows


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    lines = [",".join("" if v is None else str(v) for v in row.values()) for row in rows]
    path.write_text("\n".join([",".join(rows[0]), *lines]) + "\n")
    return path


def options(path: Path, out: Path, **changes: object) -> PrepareOptions:
    split = SplitRule("fraction", test=0.25)
    start = PrepareOptions((path,), out, schema=SCHEMA, split=split, shuffle="none")
    return replace(start, **changes)  # type: ignore[arg-type]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    prepare(options(write(tmp_path / "x.csv", table()), tmp_path / "set"))
    return tmp_path / "set"


def column(name: str, rows: list[dict[str, object]]) -> np.ndarray:
    return np.array([np.nan if r[name] is None else r[name] for r in rows], np.float64)


def test_bins_have_equally_many_distinct_training_values(made: Path) -> None:
    train = PreparedSet(made).dataset("train")
    values = column("a", table()[:300])
    distinct = np.unique(values[~np.isnan(values)])
    ids = train.ids[:, 1]
    assert np.all(ids[np.isnan(values)] == 1)
    counts = np.bincount(ids[~np.isnan(values)], minlength=7)[2:]
    assert counts.max() - counts.min() <= 1
    assert counts.sum() == len(distinct)
    order = np.argsort(values)
    assert np.all(np.diff(ids[order][: len(distinct)]) >= 0)
    assert train.table_rows[1] == 7


def test_a_column_of_mostly_one_value_has_bins_of_the_others(made: Path) -> None:
    train = PreparedSet(made).dataset("train")
    assert PreparedSet(made).manifest.dense == (
        *("a", "b[0]", "b[1]", "b[2]", "b[3]"),
        *("d[0]", "d[1]", "d[2]"),
    )
    d, encoded = column("d", table()[:300]), train.dense[:, 5:]
    distinct = np.unique(d)
    ends = [*distinct[np.arange(3) * len(distinct) // 3], distinct[-1]]
    for i, (low, high) in enumerate(pairwise(ends)):
        expected = np.clip((d - low) / (high - low), 0, 1)
        np.testing.assert_allclose(encoded[:, i], expected, rtol=1e-6)
    assert np.all(np.diff(encoded, axis=1) <= 0)


def test_missing_numbers_are_zero_or_the_number_of_the_schema(made: Path) -> None:
    train = PreparedSet(made).dataset("train")
    rows = table()[:300]
    b = train.dense[:, 1:5]
    like = next(i for i, row in enumerate(rows) if row["b"] == 3)
    np.testing.assert_array_equal(b[0], b[like])
    assert rows[0]["b"] is None


def test_few_distinct_values_have_a_bin_each(tmp_path: Path) -> None:
    rows = [{"a": v, "y": i % 2} for i, v in enumerate([5, 5, 5, 2, None])]
    path = write(tmp_path / "x.csv", rows)
    how = {"schema": BINS_ONLY, "split": SplitRule("none")}
    prepare(options(path, tmp_path / "set", **how))
    train = PreparedSet(tmp_path / "set").dataset("train")
    assert train.ids[:, 0].tolist() == [3, 3, 3, 2, 1]
    assert train.table_rows == (4,)
    assert train.dense.shape == (5, 0)


def test_a_column_without_values_has_one_bin(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", [{"a": None, "y": 1}, {"a": None, "y": 0}])
    prepare(options(path, tmp_path / "set", schema=BINS_ONLY, split=SplitRule("none")))
    assert PreparedSet(tmp_path / "set").dataset("train").ids[:, 0].tolist() == [1, 1]


@pytest.mark.parametrize("memory", ["workers", "memory"])
def test_the_set_depends_on_neither_memory_nor_workers(tmp_path: Path, memory: str) -> None:
    path = write(tmp_path / "x.csv", table())
    prepare(options(path, tmp_path / "one", shuffle="total", workers=1))
    change = {"workers": 3} if memory == "workers" else {"memory": 600 << 20}
    prepare(options(path, tmp_path / "two", shuffle="total", **change))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_resuming_gives_the_same_bytes(tmp_path: Path, part: float) -> None:
    path = write(tmp_path / "x.csv", table())
    assert_resumes(options(path, tmp_path / "set", shuffle="total"), tmp_path / "set", part)


def test_new_rows_are_encoded_as_the_rows_of_the_set(made: Path, tmp_path: Path) -> None:
    known = PreparedSet(made)
    rules = Preprocessing.of_set(known.folder, known.manifest)
    test, rows = known.dataset("test"), table()[300:]
    sources = [rows, str(write(tmp_path / "new.csv", rows))]
    for source in sources:
        [chunk] = encode_any(source, rules, Wanted(labels=False))
        np.testing.assert_array_equal(chunk.rows.dense, test.dense)
        np.testing.assert_array_equal(chunk.rows.ids, test.ids)


def test_parquet_gives_the_set_of_csv(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = table()
    prepare(options(write(tmp_path / "x.csv", rows), tmp_path / "csv"))
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    prepare(options(tmp_path / "x.parquet", tmp_path / "parquet"))
    names = ["train/ids.npy", "train/dense.npy", "test/ids.npy", "test/dense.npy"]
    for name in names:
        assert (tmp_path / "csv" / name).read_bytes() == (tmp_path / "parquet" / name).read_bytes()


def test_a_model_carries_the_bins(made: Path, tmp_path: Path) -> None:
    known = PreparedSet(made)
    train, test = (Loader(known.dataset(split), 50, ahead=0) for split in ("train", "test"))
    config = dlrmjit.ModelConfig(train.table_rows, 4, (train.dense_features, 4), (4, 1), wide=True)
    model = dlrmjit.Model(config, backend="reference")
    dlrmjit.fit(model, train, dlrmjit.TrainConfig(learning_rate=0.1))
    dlrmjit.save(model, tmp_path / "model")
    again = dlrmjit.load(tmp_path / "model", backend="reference")
    expected = np.concatenate([model.predict_proba(batch) for batch in test.batches()])
    np.testing.assert_allclose(again.predict(table()[300:]), expected, rtol=1e-6)
    assert again.preprocessing.digest == model.preprocessing.digest


def test_the_digest_covers_the_bins_and_is_as_before_without_them(made: Path) -> None:
    known = PreparedSet(made)
    rules = Preprocessing.of_set(known.folder, known.manifest)
    ends = [float(e) + 1 for e in rules.edges["categorical"]["c"]]
    other = {**rules.edges, "categorical": {**rules.edges["categorical"], "c": ends}}
    assert replace(rules, edges=other).digest != rules.digest
    plain = Schema.from_dict({"label": "y", "dense": ["a"], "categorical": ["u"]})
    assert "bins" not in json.dumps(plain.to_dict())


@pytest.mark.parametrize(
    "change",
    [{"c": [3.0, 1.0]}, {"c": [1.0]}, {}, {"c": [float(i) for i in range(400)]}],
    ids=["descending", "one", "none", "too many"],
)
def test_bins_that_cannot_be_are_refused(made: Path, change: dict[str, list[float]]) -> None:
    known = PreparedSet(made)
    rules = Preprocessing.of_set(known.folder, known.manifest)
    content, files = rules.to_files()
    found = json.loads(content)
    found["edges"]["categorical"].pop("c")
    found["edges"]["categorical"].update(change)
    vocabularies = {name: file.read() for name, file in files.items()}
    with pytest.raises(DataError, match=r"bins of column 'c' have no ascending ends|was changed"):
        Preprocessing.parse(json.dumps(found).encode(), vocabularies, "the model")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"dense": [{"name": "a", "bins": 4}]}, "needs a number of bins, and other transforms"),
        ({"dense": [{"name": "a", "transform": "piecewise_linear"}]}, "needs a number of bins"),
        ({"categorical": [{"name": "a", "bins": 1}]}, "bins must be from 2 to"),
        ({"categorical": [{"name": "a", "bins": 4, "max_rows": 9}]}, "combined with max_rows"),
        ({"categorical": [{"name": "a", "bins": 4, "separator": "|"}]}, "combined with separator"),
        ({"categorical": [{"name": "a", "bins": 4}, "a"]}, "named twice"),
        ({"categorical": ["a"], "dense": ["a"]}, "named twice"),
        ({"categorical": [{"name": "y", "bins": 4}]}, "named twice"),
        ({"categorical": [{"name": "a", "bins": "many"}]}, "bins must be a whole number"),
    ],
)
def test_schemas_that_cannot_be_are_refused(part: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schema.from_dict({"label": "y", "categorical": ["u"], **part})


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=60), st.integers(2, 9))
def test_every_value_is_in_the_bin_between_its_ends(values: list[float], bins: int) -> None:
    distinct = np.unique(np.array(values) + 0.0)
    ends = bin_edges.edges_of(distinct, bins)
    assert len(ends) == min(bins, len(distinct)) + 1
    assert np.all(np.diff(ends) > 0)
    rows = bin_rows(distinct, ends) - 2
    lows = np.array(ends[:-1])[rows]
    assert np.all((lows <= distinct) | (rows == 0))
    counts = np.bincount(rows, minlength=len(ends) - 1)
    assert counts.max() - counts.min() <= 1


def test_many_distinct_values_are_sampled_by_value_alone() -> None:
    values = np.random.default_rng(0).standard_normal(20000)
    found = bin_edges._distinct(iter([values[:5000], values[5000:]]), most=1000)
    again = bin_edges._distinct(iter(np.split(np.sort(np.tile(values, 2)), 8)), most=1000)
    np.testing.assert_array_equal(found, again)
    assert 400 < len(found) <= 1002
    assert found[0] == values.min()
    assert found[-1] == values.max()
    quantiles = np.quantile(found, [0.1, 0.5, 0.9]), np.quantile(values, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(*quantiles, atol=0.2)
