"""Vocabularies: ids follow the order of first appearance, in memory and in a set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.data.formats.criteo_text import read_criteo_text
from dlrmjit.data.prepare.files.vocabularies import HashVocabulary, TextVocabulary
from dlrmjit.data.prepare.options import SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.reader import PreparedSet
from tests.data.prepare.builders import SCHEMA, Row, criteo_options, schema_options, values_of


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=300), st.integers(1, 40))
def test_ids_of_hashes_follow_first_appearance(values: list[int], step: int) -> None:
    vocabulary = HashVocabulary(1 << 20)
    array, ids = np.array(values, np.uint32), np.empty(len(values), np.int32)
    for start in range(0, len(values), step):
        vocabulary.encode(array[start : start + step], ids[start : start + step])
    first = {value: number for number, value in enumerate(dict.fromkeys(values))}
    assert ids.tolist() == [first[value] for value in values]
    assert vocabulary.values.tolist() == list(first)


@given(st.lists(st.text(max_size=5), min_size=1, max_size=80), st.integers(1, 40))
def test_ids_of_texts_follow_first_appearance(values: list[str], step: int) -> None:
    vocabulary, found = TextVocabulary(1 << 20), []
    for start in range(0, len(values), step):
        part = [value.encode() for value in values[start : start + step]]
        ids = np.empty(len(part), np.int32)
        lengths = np.array([len(value) for value in part], np.int32)
        vocabulary.encode(np.frombuffer(b"".join(part), np.uint8), lengths, ids)
        found += ids.tolist()
    first = {value: number for number, value in enumerate(dict.fromkeys(values))}
    assert found == [first[value] for value in values]
    assert [value.decode() for value in vocabulary.values] == list(first)


def test_a_set_holds_the_hash_of_each_id(criteo_text: Path, tmp_path: Path) -> None:
    split = SplitRule("none")
    prepare(criteo_options(criteo_text, tmp_path / "set", shuffle="none", split=split))
    prepared = PreparedSet(tmp_path / "set")
    hashes = read_criteo_text(criteo_text).hashes
    ids = prepared.dataset("train").ids
    for column in range(26):
        assert (prepared.vocabulary(column)[ids[:, column]] == hashes[:, column]).all()


def test_a_set_holds_the_text_of_each_id(csv_path: Path, rows: list[Row], tmp_path: Path) -> None:
    prepare(schema_options(csv_path, tmp_path / "set"))
    prepared = PreparedSet(tmp_path / "set")
    for s, column in enumerate(SCHEMA.categorical):
        training = rows[: prepared.manifest.splits["train"]]
        distinct = dict.fromkeys(value for row in training for value in values_of(row, column))
        distinct.pop("", None)
        assert [v.decode() for v in prepared.texts(s)] == ["", "", *distinct]
