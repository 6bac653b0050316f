"""The second stage: which values get ids, and which share row 0."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.data.formats import criteo
from dlrmjit.data.prepare.options import PrepareOptions, SplitKind, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepare.stages import encode
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import CategoricalColumn
from dlrmjit.errors import MemoryLimitError
from tests.data.prepare.builders import (
    SCHEMA,
    Row,
    bags_of,
    criteo_options,
    order_of,
    rows_of,
    schema_options,
    values_of,
)


def test_rare_values_share_a_row(criteo_text: Path, tmp_path: Path) -> None:
    plain = criteo.load_criteo_text(criteo_text)
    rule = {"min_count": 3, "max_rows": 40, "shuffle": "none", "split": SplitRule("none")}
    manifest = prepare(criteo_options(criteo_text, tmp_path / "set", **rule))
    ids = PreparedSet(tmp_path / "set").dataset("train").ids
    for column in range(26):
        counts = np.bincount(plain.ids[:, column])
        most = np.argsort(-counts, kind="stable")[:39]
        frequent = [value for value in most if counts[value] >= 3]
        expected = np.zeros(len(counts), int)
        expected[sorted(frequent)] = np.arange(1, len(frequent) + 1)
        assert (ids[:, column] == expected[plain.ids[:, column]]).all()
        assert manifest.table_rows[column] == len(frequent) + 1


def test_hashing_needs_no_vocabulary(criteo_text: Path, tmp_path: Path) -> None:
    manifest = prepare(criteo_options(criteo_text, tmp_path / "set", hash_rows=100))
    ids = rows_of(tmp_path / "set", "train")[:, 14:]
    assert manifest.table_rows == (100,) * 26
    assert 0 <= ids.min() <= ids.max() < 100
    assert PreparedSet(tmp_path / "set").vocabulary(0) is None


def test_counts_and_hashes_of_single_columns(
    csv_path: Path, rows: list[Row], tmp_path: Path
) -> None:
    columns = (
        CategoricalColumn("user", min_count=3, max_rows=9),
        CategoricalColumn("genres", "|"),
        CategoricalColumn("note", hash_rows=5),
    )
    schema = replace(SCHEMA, categorical=columns)
    asked = schema_options(csv_path, tmp_path / "set", schema=schema, min_count=100)
    manifest = prepare(replace(asked, shuffle="none", split=SplitRule("none")))
    users = Counter(row["user"] for row in rows)
    most = sorted(users, key=lambda user: -users[user])[:7]
    frequent = [user for user in users if user in most and users[user] >= 3]
    ids = {user: number for number, user in enumerate(frequent, 2)}
    assert bags_of(tmp_path / "set", "train", 0) == [[ids.get(r["user"], 0)] for r in rows]
    assert [v.decode() for v in PreparedSet(tmp_path / "set").texts(0)] == ["", "", *frequent]
    genres = Counter(value for row in rows for value in values_of(row, columns[1]))
    frequent_genres = sum(n >= 100 for n in genres.values())
    assert manifest.table_rows == (2 + len(frequent), 2 + frequent_genres, 5)
    notes = [bag[0] for bag in bags_of(tmp_path / "set", "train", 2)]
    assert {note for note, row in zip(notes, rows, strict=True) if row["note"]} == {1, 2, 3, 4}
    assert {note for note, row in zip(notes, rows, strict=True) if not row["note"]} == {0}
    assert PreparedSet(tmp_path / "set").vocabulary(2) is None


@pytest.mark.parametrize("kind", ["fraction", "random"])
def test_a_vocabulary_of_the_training_rows(
    csv_path: Path,
    rows: list[Row],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: SplitKind,
) -> None:
    """Values that only other rows have share row 0, and counts are those of training rows."""
    monkeypatch.setattr(encode, "_SLICE", 97)
    least_of_genres = 90
    schema = replace(
        SCHEMA,
        categorical=(
            CategoricalColumn("user"),
            CategoricalColumn("genres", "|", min_count=least_of_genres),
            CategoricalColumn("note", hash_rows=5),
        ),
    )
    asked = schema_options(csv_path, tmp_path / "set", schema=schema, vocabulary_of="train")
    prepare(replace(asked, split=SplitRule(kind, test=0.7, validation=0.1)))
    found = PreparedSet(tmp_path / "set")
    is_train = set(order_of(tmp_path / "set", "train"))
    for s, least in ((0, 1), (1, least_of_genres)):
        column = schema.categorical[s]
        counts = Counter(
            v for r, row in enumerate(rows) if r in is_train for v in values_of(row, column)
        )
        first = dict.fromkeys(v for row in rows for v in values_of(row, column))
        ids = {v: i for i, v in enumerate((v for v in first if counts[v] >= least), 2)}
        assert 0 < len(ids) < len(first)
        assert [v.decode() for v in found.texts(s)] == ["", "", *ids]
        for split in ("train", "test", "validation"):
            expected = [
                [ids.get(v, 0) for v in values_of(rows[r], column)]
                for r in order_of(tmp_path / "set", split)
            ]
            assert bags_of(tmp_path / "set", split, s) == expected
    assert [c.has_rare_row for c in found.manifest.categorical] == [True, True, False]
    assert found.manifest.table_rows[2] == 5


def test_vocabularies_beyond_the_memory(
    options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlrmjit.data.prepare.pipeline._working_memory", lambda memory: 500)
    with pytest.raises(MemoryLimitError, match=r"column (C\d+|user) do not fit"):
        prepare(options)
