"""Lists in prepared sets: which rows they have, in which order, and in which split."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepare.stages import lists as stage
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import Schema
from dlrmjit.errors import DataError, MemoryLimitError

SCHEMA = {
    "label": "grade",
    "relevance": True,
    "lists": "query",
    "dense": ["row"],
    "categorical": ["item", {"name": "tags", "separator": "|"}],
}


def write(path: Path, queries: list[str]) -> Path:
    """Write rows of these queries; the dense value is the number of the row."""
    lines = [
        f"{query},{row},i{row % 7},{'|'.join('ab'[: row % 3])},{row % 5}"
        for row, query in enumerate(queries)
    ]
    path.write_text("\n".join(["query,row,item,tags,grade", *lines, ""]))
    return path


def made(
    path: Path, out: Path, schema: dict[str, object] | None = None, **changes: object
) -> PreparedSet:
    rules = Schema.from_dict(SCHEMA if schema is None else schema)
    prepare(PrepareOptions((path,), out, schema=rules, **changes))
    return PreparedSet(out)


def lists_in(found: PreparedSet, split: str) -> list[list[int]]:
    """Return the rows of the input in every list of a split."""
    dataset = found.dataset(split)
    rows = dataset.dense[:, 0].astype(int).tolist()
    return [rows[first:last] for first, last in pairwise(np.asarray(dataset.lists).tolist())]


def rows_by_query(queries: list[str]) -> list[list[int]]:
    rows: dict[str, list[int]] = {}
    for row, query in enumerate(queries):
        rows.setdefault(query, []).append(row)
    return list(rows.values())


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_rows_of_a_list_are_together_in_the_order_of_the_input(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], seed: int
) -> None:
    folder, queries = tmp_path_factory.mktemp("lists"), [f"q{n}" for n in numbers]
    path = write(folder / "log.csv", queries)
    none = SplitRule("none")
    plain = made(path, folder / "plain", split=none, shuffle="none")
    assert lists_in(plain, "train") == rows_by_query(queries)
    shuffled = lists_in(made(path, folder / "set", split=none, seed=seed), "train")
    assert sorted(shuffled) == sorted(rows_by_query(queries))


@pytest.mark.parametrize("kind", ["fraction", "random", "days"])
def test_no_split_cuts_a_list(tmp_path: Path, kind: str) -> None:
    rng = random.Random(1)
    queries = [f"q{rng.randrange(80)}" for _ in range(400)]
    shares = {} if kind == "days" else {"test": 0.2, "validation": 0.1}
    split = SplitRule(kind, **shares)
    found = made(write(tmp_path / "log.csv", queries), tmp_path / "set", split=split)
    every = [rows for name in found.manifest.splits for rows in lists_in(found, name)]
    assert sorted(every) == sorted(rows_by_query(queries))
    assert set(found.manifest.splits) == {"train", "test", "validation"}
    if kind == "fraction":  # the lists that appear last, 80 and 40 rows of them
        in_order, test = rows_by_query(queries), lists_in(found, "test")
        assert test == in_order[-len(test) :]
        assert 70 <= found.manifest.splits["test"] <= 90


def test_a_set_does_not_depend_on_memory_and_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(2)
    queries = [f"q{rng.randrange(150)}" for _ in range(900)]
    path = write(tmp_path / "log.csv", queries)
    split = SplitRule("fraction", test=0.3)
    whole = made(path, tmp_path / "whole", split=split)
    buckets, counts = stage.ListSplitter.buckets, []

    def few_rows(self: stage.ListSplitter, row_bytes: list[int], memory: int) -> list[int]:
        counts.append(buckets(self, row_bytes, 50 * max(row_bytes)))
        return counts[-1]

    monkeypatch.setattr(stage.ListSplitter, "buckets", few_rows)
    monkeypatch.setattr(stage, "_SLICE", 97)
    parts = made(path, tmp_path / "parts", split=split, workers=3)
    assert min(counts[0][:2]) > 2
    assert whole.manifest.files == parts.manifest.files


def test_relevance_is_stored_as_it_is(tmp_path: Path) -> None:
    queries = ["a", "b", "a", "b", "b"]
    path = write(tmp_path / "log.csv", queries)
    dataset = made(path, tmp_path / "set", split=SplitRule("none"), shuffle="none").dataset("train")
    assert dataset.labels.tolist() == [0, 2, 1, 3, 4]
    assert dataset.labels.dtype == np.float32
    assert dataset.multi[0][1].bags()[0].size == sum(row % 3 for row in range(5))


def test_a_list_column_may_be_a_feature(tmp_path: Path) -> None:
    queries = ["a", "b", "a", "c", "b"]
    path = write(tmp_path / "log.csv", queries)
    schema = SCHEMA | {"categorical": ["query", "item"]}
    found = made(path, tmp_path / "set", schema, split=SplitRule("none"), shuffle="none")
    assert lists_in(found, "train") == [[0, 2], [1, 4], [3]]
    assert found.dataset("train").ids[:, 0].tolist() == [2, 2, 3, 3, 4]
    assert found.texts(0) == [b"", b"", b"a", b"b", b"c"]


def test_a_row_without_a_list_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", ["a", "b", "", "a"])
    with pytest.raises(DataError, match=r"row 2 .* no value in column 'query'"):
        made(path, tmp_path / "set", split=SplitRule("none"))


def test_a_list_beyond_the_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = 150_000  # enough for the vocabularies
    monkeypatch.setattr("dlrmjit.data.prepare.pipeline._working_memory", lambda _: memory)
    path = write(tmp_path / "log.csv", ["a"] * 3000)
    with pytest.raises(MemoryLimitError, match="a list has 3,000 rows"):
        made(path, tmp_path / "set", split=SplitRule("none"))


def test_a_grade_without_relevance_says_what_to_do(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", ["a"] * 4)
    schema = {key: value for key, value in SCHEMA.items() if key != "relevance"}
    with pytest.raises(DataError, match="relevance = true in the schema accepts graded"):
        made(path, tmp_path / "set", schema, split=SplitRule("none"))
