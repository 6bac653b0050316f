"""Models are saved with the vocabularies they were trained with, whatever became of the set."""

import os
import shutil

import pytest

import dlrmjit
from dlrmjit.data.loader import Loader
from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import Schema
from dlrmjit.errors import CheckpointError

SCHEMA = Schema.from_dict({"label": "y", "dense": ["d"], "categorical": ["c"]}, "s.json")


def prepared(folder, prefix):
    """Replace the set by one of as many values, which are as long."""
    text = "".join(f"{i % 2},{i},{prefix}{i % 8}\n" for i in range(64))
    (folder / "log.csv").write_text(f"y,d,c\n{text}")
    given = {"schema": SCHEMA, "split": SplitRule("none"), "replace": True}
    prepare(PrepareOptions((folder / "log.csv",), folder / "set", **given))
    return Loader(PreparedSet(folder / "set").dataset("train"), 16)


def model_for(train):
    return dlrmjit.DLRM(dlrmjit.ModelConfig(train.table_rows, 4, (1, 4, 4), (8, 1)))


def vocabulary_of(folder):
    [path] = (folder / "set" / "vocabulary").iterdir()
    return path


def values(path):
    return set(dlrmjit.load(path).preprocessing.texts(0)) - {b""}


EXPECTED = {f"a{i}".encode() for i in range(8)}


@pytest.mark.parametrize("becomes", ["another set", "nothing", "the same"])
def test_a_set_that_is_made_again_meanwhile_does_not_change_what_is_saved(tmp_path, becomes):
    train = prepared(tmp_path, "a")
    model = model_for(train)
    dlrmjit.fit(model, train)
    if becomes == "another set":
        prepared(tmp_path, "b")
    elif becomes == "nothing":
        shutil.rmtree(tmp_path / "set")
    for name in ("m", "m", "n"):
        dlrmjit.save(model, tmp_path / name)
        assert values(tmp_path / name) == EXPECTED


def test_the_vocabulary_of_a_set_is_linked_also_where_it_is_a_link(tmp_path):
    train = prepared(tmp_path, "a")
    path = vocabulary_of(tmp_path)
    path.rename(tmp_path / "store")
    path.symlink_to("../../store")
    model = model_for(train)
    dlrmjit.fit(model, train)
    dlrmjit.save(model, tmp_path / "m")
    assert values(tmp_path / "m") == EXPECTED
    saved = tmp_path / "m" / "vocabulary-00000.npz"
    assert os.path.samefile(saved, tmp_path / "store")
    assert not saved.is_symlink()


def test_a_damaged_vocabulary_is_named_before_the_training(tmp_path):
    train = prepared(tmp_path, "a")
    path = vocabulary_of(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    model = model_for(train)
    with pytest.raises(CheckpointError, match=r"vocabulary.*damaged, or of another set"):
        dlrmjit.fit(model, train, checkpointer=dlrmjit.Checkpointer(tmp_path / "m"))
    with pytest.raises(CheckpointError, match=r"vocabulary.*damaged, or of another set"):
        dlrmjit.save(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()
