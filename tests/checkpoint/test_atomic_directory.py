"""A checkpoint is replaced as a whole: old or new, wherever the program is killed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.checkpoint import open_checkpoint, save_checkpoint
from dlrmjit.errors import CheckpointError

ROOT = Path(__file__).parents[2]


def save(path, value, rows=3):
    state = {"emb_l.0.weight": np.full((rows, 2), value, np.float32)}
    save_checkpoint(path, state, model_config={}, progress={"value": value}, chunk_bytes=8)


def saved_value(path):
    """The value of a whole checkpoint: its progress, which its arrays must agree with."""
    opened = open_checkpoint(path)
    value = opened.progress["value"]
    assert np.all(opened.state["emb_l.0.weight"] == value)
    return value


def test_a_smaller_checkpoint_leaves_nothing_of_a_larger_one(tmp_path):
    save(tmp_path / "a", 1, rows=9)
    save(tmp_path / "a", 2, rows=2)
    assert saved_value(tmp_path / "a") == 2
    assert len(list((tmp_path / "a").iterdir())) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_other_files_in_the_directory_stay(tmp_path):
    save(tmp_path / "a", 1)
    (tmp_path / "a" / "log.json").write_text("kept")
    save(tmp_path / "a", 2)
    assert (tmp_path / "a" / "log.json").read_text() == "kept"


def test_a_link_to_a_checkpoint_is_followed(tmp_path):
    save(tmp_path / "a", 1)
    (tmp_path / "link").symlink_to("a")
    save(tmp_path / "link", 2)
    assert (tmp_path / "link").is_symlink()
    assert saved_value(tmp_path / "a") == 2


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_a_failure_leaves_the_old_checkpoint(tmp_path, monkeypatch, failing):
    save(tmp_path / "a", 1)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, refuse)
    with pytest.raises(CheckpointError, match="No space left"):
        save(tmp_path / "a", 2)
    monkeypatch.undo()
    assert saved_value(tmp_path / "a") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


KILLED = """
import os, sys
kill_at = int(sys.argv[1])
calls = 0

def dying(function):
    def run(*arguments, **options):
        global calls
        calls += 1
        if calls == kill_at:
            os._exit(9)
        return function(*arguments, **options)
    return run

from dlrmjit.checkpoint import atomic_directory
from tests.checkpoint import test_atomic_directory as test
os.rename, os.fsync = dying(os.rename), dying(os.fsync)
atomic_directory.shutil.rmtree = dying(atomic_directory.shutil.rmtree)
test.save(test.Path(sys.argv[2]), 2)
"""


def save_and_die(path, kill_at):
    """Save 2 in a process that dies at its n-th sync, rename or removal; whether it died."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
    command = [sys.executable, "-c", KILLED, str(kill_at), str(path)]
    status = subprocess.run(command, env=environment, check=False).returncode
    assert status in (0, 9)
    return status == 9


def test_a_kill_at_any_step_leaves_a_whole_checkpoint(tmp_path):
    seen = []
    for kill_at in range(1, 40):
        path = tmp_path / str(kill_at) / "a"
        path.parent.mkdir()
        save(path, 1)
        died = save_and_die(path, kill_at)
        seen.append(saved_value(path))
        save(path, 3)
        assert saved_value(path) == 3
        assert [entry.name for entry in path.parent.iterdir()] == ["a"]
        if not died:
            break
    assert not died
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}
