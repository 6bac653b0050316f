"""Paths that lead to nothing readable end in one sentence, of whatever error the caller has."""

import os

import pytest

from dlrmjit.checkpoint import open_checkpoint, read_torch_file
from dlrmjit.errors import CheckpointError, ConfigError, DataError
from dlrmjit.files import locate, refuse_special


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x" * 300, "File name too long"),
        ("a/" * 3000, "File name too long"),
        ("loop", "symbolic links"),
        ("pipe", "pipe, socket or device"),
        ("/dev/zero", "pipe, socket or device"),
        ("a\0b", "null"),
    ],
)
@pytest.mark.parametrize("read", [open_checkpoint, read_torch_file])
def test_what_cannot_be_read_is_refused_before_it_is_opened(
    tmp_path, monkeypatch, read, name, said
):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    os.mkfifo("pipe")
    with pytest.raises(ConfigError, match=said) as caught:
        refuse_special(name, ConfigError, "the schema ")
    assert len(str(caught.value)) < 300
    with pytest.raises(CheckpointError, match=said):
        read(name)


def test_files_folders_and_nothing_pass(tmp_path):
    for path in (tmp_path, tmp_path / "none", tmp_path / "none" / "x"):
        refuse_special(path, DataError)


def test_the_root_is_located_and_is_no_checkpoint(tmp_path):
    root = tmp_path.root
    assert str(locate(tmp_path.__class__(root))) == root
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        open_checkpoint(root)
