"""Files encoded with the vocabulary of a set: its inputs get the ids that the set has."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.encode import read_with_vocabulary
from dlrmjit.data.prepared.manifest import file_facts
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import CategoricalColumn, Schema
from dlrmjit.errors import DataError
from tests.data.prepare.builders import (
    COLUMNS,
    LISTS,
    SCHEMA,
    criteo_lines,
    csv_rows,
    csv_text,
    schema_options,
    write_parquet,
)

PRUNED = replace(
    SCHEMA,
    categorical=(
        CategoricalColumn("user", min_count=2),
        CategoricalColumn("genres", "|", max_rows=3),
        CategoricalColumn("note", hash_rows=7),
    ),
)


def assert_same(found, expected) -> None:
    assert (found.labels == expected.labels).all()
    assert (found.dense == expected.dense).all()
    assert (found.ids == expected.ids).all()
    for (s, ours), (t, theirs) in zip(found.multi, expected.multi, strict=True):
        assert s == t
        for a, b in zip(ours.bags(), theirs.bags(), strict=True):
            assert (a == b).all()


@pytest.mark.parametrize("schema", [SCHEMA, PRUNED], ids=["all", "pruned"])
def test_csv_gets_the_ids_of_its_set(tmp_path: Path, schema) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(csv_text(csv_rows(500)))
    whole = SplitRule("none")
    prepare(schema_options(path, tmp_path / "set", schema=schema, shuffle="none", split=whole))
    known = PreparedSet(tmp_path / "set")
    assert_same(read_with_vocabulary(path, known), known.dataset("train"))


def test_parquet_gets_the_ids_of_its_set(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "log.parquet", csv_rows(500))
    whole = SplitRule("none")
    prepare(schema_options(path, tmp_path / "set", schema=LISTS, shuffle="none", split=whole))
    known = PreparedSet(tmp_path / "set")
    assert_same(read_with_vocabulary(path, known), known.dataset("train"))


def test_criteo_text_gets_the_ids_of_its_set_even_where_nothing_is_frequent(
    tmp_path: Path,
) -> None:
    """A missing value counts as hash 0, which is not the rare values' row 0."""
    rng = random.Random(1)
    shown = [
        line if rng.random() < 0.5 else line.rstrip(b"\n").rpartition(b"\t")[0] + b"\t\n"
        for line in criteo_lines(400, 2)
    ]
    (tmp_path / "train.txt").write_bytes(b"".join(shown))
    asked = PrepareOptions(
        (tmp_path / "train.txt",),
        tmp_path / "set",
        min_count=3,
        shuffle="none",
        split=SplitRule("none"),
    )
    prepare(asked)
    known = PreparedSet(tmp_path / "set")
    stored = known.dataset("train")
    missing = [line.endswith(b"\t\n") for line in shown]
    assert (stored.ids[missing, 25] > 0).all()
    assert_same(read_with_vocabulary(tmp_path / "train.txt", known), stored)


def test_rows_of_many_chunks_keep_their_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks share the memory of their columns."""
    monkeypatch.setattr("dlrmjit.data.prepare.inputs.text_chunks.CHUNK_BYTES", 9_000)
    path = tmp_path / "train.txt"
    path.write_bytes(b"".join(criteo_lines(400, 2)))
    prepare(PrepareOptions((path,), tmp_path / "set", shuffle="none", split=SplitRule("none")))
    known = PreparedSet(tmp_path / "set")
    assert_same(read_with_vocabulary(path, known), known.dataset("train"))


@pytest.fixture
def known(tmp_path: Path) -> PreparedSet:
    path = tmp_path / "log.csv"
    path.write_bytes(csv_text(csv_rows(200)))
    prepare(schema_options(path, tmp_path / "set"))
    return PreparedSet(tmp_path / "set")


def test_unknown_and_missing_values_have_rows_of_their_own(
    known: PreparedSet, tmp_path: Path
) -> None:
    rows = csv_rows(3)
    rows[1]["user"], rows[2]["user"] = "unknown", ""
    (tmp_path / "new.csv").write_bytes(csv_text(rows))
    ids = read_with_vocabulary(tmp_path / "new.csv", known).ids[:, 0].tolist()
    assert ids == [2, 0, 1]


def test_rows_whose_values_are_all_unknown_are_encoded(known: PreparedSet, tmp_path: Path) -> None:
    rows = csv_rows(2)
    rows[0]["user"], rows[1]["user"] = "unknown", "also unknown"
    (tmp_path / "new.csv").write_bytes(csv_text(rows))
    assert read_with_vocabulary(tmp_path / "new.csv", known).ids[:, 0].tolist() == [0, 0]


def test_texts_that_mean_missing_count_as_empty(tmp_path: Path) -> None:
    schema = replace(
        SCHEMA,
        missing=("NA", "?"),
        categorical=(
            CategoricalColumn("user"),
            CategoricalColumn("genres", "|"),
            CategoricalColumn("note", missing=()),
        ),
    )
    rows = csv_rows(200)
    marked, empty = [dict(row) for row in rows], [dict(row) for row in rows]
    for row in range(0, 200, 3):
        for name in ("user", "price", "age"):
            marked[row][name], empty[row][name] = "NA", ""
        marked[row]["genres"], empty[row]["genres"] = "NA|crime|?", "crime"
        marked[row]["note"] = empty[row]["note"] = "NA"
    sets = []
    for name, shown in (("marked", marked), ("empty", empty)):
        path = tmp_path / f"{name}.csv"
        path.write_bytes(csv_text(shown))
        prepare(schema_options(path, tmp_path / name, schema=schema))
        sets.append(PreparedSet(tmp_path / name))
    assert b"NA" not in sets[0].texts(0) + sets[0].texts(1)
    assert b"NA" in sets[0].texts(2)
    for split in ("train", "test"):
        assert_same(sets[0].dataset(split), sets[1].dataset(split))


def test_sets_of_an_older_version_keep_their_rows(tmp_path: Path) -> None:
    """Version 1 has no row for missing values: an empty text is a value, and unknown is row 0."""
    path = tmp_path / "log.csv"
    path.write_text("clicked,user\n1,ann\n0,\n1,bob\n")
    schema = Schema("clicked", (), (CategoricalColumn("user"),))
    prepare(schema_options(path, tmp_path / "set", schema=schema, split=SplitRule("none")))
    known = PreparedSet(tmp_path / "set")
    vocabulary = known.folder / "vocabulary" / "user.npz"
    np.savez(vocabulary, bytes=np.frombuffer(b"annbob", np.uint8), ends=np.array([3, 3, 6]))
    column = replace(known.manifest.categorical[0], rows=3, has_rare_row=False, missing_row=-1)
    files = {**known.manifest.files, "vocabulary/user.npz": file_facts(vocabulary)}
    replace(known.manifest, categorical=(column,), files=files).write(known.folder)
    assert json.loads((known.folder / "manifest.json").read_text())["version"] == 1
    old = PreparedSet(tmp_path / "set")
    path.write_text("clicked,user\n1,ann\n0,\n1,bob\n0,new\n")
    assert read_with_vocabulary(path, old).ids[:, 0].tolist() == [0, 1, 2, 0]


def test_vocabularies_of_another_set(known: PreparedSet, tmp_path: Path) -> None:
    path = known.folder / "vocabulary" / "user.npz"
    np.savez(path, bytes=np.zeros(3, np.uint8), ends=np.arange(3))
    with pytest.raises(DataError, match=r"user\.npz has \d+ bytes, but"):
        PreparedSet(known.folder)
    with pytest.raises(DataError, match=r"user\.npz is damaged, or of another set"):
        read_with_vocabulary(tmp_path / "log.csv", known)


def test_files_that_cannot_be_read(known: PreparedSet, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_with_vocabulary(tmp_path / "none.csv", known)
    (tmp_path / "bad.csv").write_bytes(csv_text(csv_rows(3)) + b"1,2\n")
    with pytest.raises(DataError, match=r"bad\.csv, line 5: 2 columns"):
        read_with_vocabulary(tmp_path / "bad.csv", known)
    (tmp_path / "head.csv").write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(DataError, match="no valid line"):
        read_with_vocabulary(tmp_path / "head.csv", known)
