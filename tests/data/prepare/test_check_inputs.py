"""Inputs that a preparation refuses before it starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dlrmjit.data.formats.text_blocks import open_text
from dlrmjit.data.prepare.check_inputs import check_inputs
from dlrmjit.data.prepare.inputs.open import open_format
from dlrmjit.data.schema import CategoricalColumn, Schema
from dlrmjit.errors import DataError


def test_the_same_file_twice(criteo_text: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy.txt"
    copied.write_bytes(criteo_text.read_bytes())
    linked = tmp_path / "link.txt"
    linked.symlink_to(criteo_text)
    for again in (criteo_text, copied, linked):
        with pytest.raises(DataError, match="same file or copies; name each input once"):
            check_inputs([criteo_text, again])


def test_missing_and_empty_files_and_directories(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path, said in (("missing", "No such file"), ("empty", "empty"), (".", "directory")):
        with pytest.raises(DataError, match=said):
            check_inputs([tmp_path / path])


def test_a_pipe_is_refused_as_one(tmp_path: Path) -> None:
    pipe = tmp_path / "log.csv"
    os.mkfifo(pipe)
    schema = Schema("y", categorical=(CategoricalColumn("c"),))
    with pytest.raises(DataError, match=r"log\.csv is a pipe, which can be read only once"):
        check_inputs([pipe])
    with pytest.raises(DataError, match=r"log\.csv is a pipe"):
        open_format((pipe,), schema, False, 2)
    with pytest.raises(DataError, match=r"/dev/null is a device"):
        open_text(Path("/dev/null"))
