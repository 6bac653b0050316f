"""A checkpoint is replaced as a whole: old or new, wherever the program is killed."""

import errno
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.checkpoint import (
    check_destination,
    check_torch_destination,
    open_checkpoint,
    save_checkpoint,
    write_torch_file,
)
from dlrmjit.errors import CheckpointError
from dlrmjit.training.saved_runs import newest

ROOT = Path(__file__).parents[2]


def save(path, value, rows=3):
    state = {"emb_l.0.weight": np.full((rows, 2), value, np.float32)}
    save_checkpoint(path, state, model_config={}, progress={"value": value}, chunk_bytes=8)


def saved_value(path):
    """Return the value of a complete checkpoint, the same in its progress and its arrays."""
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
    (tmp_path / "a" / "log.json").write_text("log")
    save(tmp_path / "a", 2)
    assert (tmp_path / "a" / "log.json").read_text() == "log"


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


@pytest.mark.parametrize("scenario", ["killed_saves", "killed_reference_saves"])
def test_a_kill_at_any_call_leaves_a_whole_model_and_the_next_save_clears_up(scenario):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
    command = [sys.executable, "-m", "tests.files.kills", f"tests.checkpoint.{scenario}"]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 10


def manifest_of(path, text):
    path.mkdir()
    (path / "manifest.json").write_text(text)


@pytest.mark.parametrize(
    "manifest",
    [
        "{}",
        "[]",
        "not JSON",
        '{"format": "of others", "version": 1, "files": {}}',
        '{"format": "dlrmjit-set", "version": 1, "files": {}}',
        '{"format": "dlrmjit-checkpoint", "files": {"../x": {"bytes": 4, "sha256": ""}}}',
        '{"format": "dlrmjit-checkpoint", "files": {"/etc/hostname": {"bytes": 4, "sha256": ""}}}',
        '{"format": "dlrmjit-checkpoint", "files": {"x": 4}}',
    ],
)
def test_a_folder_of_another_application_is_not_replaced(tmp_path, manifest):
    (tmp_path / "x").write_text("mine")
    manifest_of(tmp_path / "a", manifest)
    (tmp_path / "a" / "bert.safetensors").write_text("somebody's model")
    with pytest.raises(CheckpointError, match=r"no checkpoint (can|that)"):
        check_destination(tmp_path / "a")
    with pytest.raises(CheckpointError):
        save(tmp_path / "a", 1)
    assert (tmp_path / "a" / "manifest.json").read_text() == manifest
    assert (tmp_path / "a" / "bert.safetensors").read_text() == "somebody's model"
    assert (tmp_path / "x").read_text() == "mine"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "x"]


def test_files_of_others_survive_whatever_they_are_called(tmp_path):
    save(tmp_path / "a", 1)
    (tmp_path / "a" / "bert.safetensors").write_text("somebody's model")
    (tmp_path / "a" / "runs").mkdir()
    (tmp_path / "a" / "runs" / "events").write_text("log")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "nowhere")
    save(tmp_path / "a", 2)
    assert (tmp_path / "a" / "bert.safetensors").read_text() == "somebody's model"
    assert (tmp_path / "a" / "runs" / "events").read_text() == "log"
    assert (tmp_path / "a" / "link").is_symlink()
    assert saved_value(tmp_path / "a") == 2


def test_a_file_of_others_under_a_name_of_ours_is_named_and_stays(tmp_path):
    save(tmp_path / "a", 1)
    (tmp_path / "a" / "mlp.safetensors").write_text("mine")
    state = {"bot_l.0.bias": np.zeros(2, np.float32)}
    with pytest.raises(CheckpointError, match=r"'mlp\.safetensors'.*move"):
        save_checkpoint(tmp_path / "a", state, model_config={}, progress={})
    assert (tmp_path / "a" / "mlp.safetensors").read_text() == "mine"
    assert saved_value(tmp_path / "a") == 1
    (tmp_path / "a" / "table-00000-00000.safetensors").write_text("mine too")
    with pytest.raises(CheckpointError, match=r"'table-00000-00000\.safetensors'.*move"):
        check_destination(tmp_path / "a")


def test_a_name_that_can_be_guessed_is_neither_followed_nor_removed(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "manifest.json").write_text("theirs")
    save(tmp_path / "a", 1)
    (tmp_path / ".a.previous").symlink_to("theirs")
    with pytest.raises(CheckpointError, match=r"\.a\.previous is in the way"):
        save(tmp_path / "a", 2)
    assert saved_value(tmp_path / "a") == 1
    assert (tmp_path / "theirs" / "manifest.json").read_text() == "theirs"


def test_a_saved_model_of_another_kind_is_not_replaced(tmp_path):
    with zipfile.ZipFile(tmp_path / "bert.pt", "w") as archive:
        archive.writestr("archive/data.pkl", "a model of others")
    for name, content in (("a.pt", b"thesis"), ("b.pt", b"PK\x03\x04")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "c.pt").symlink_to("a.pt")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for path in before:
        for call in (check_torch_destination, lambda path: write_torch_file(path, {}, {})):
            with pytest.raises(CheckpointError, match="does not replace"):
                call(path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_directory_that_cannot_be_synced_is_passed_over(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    save(tmp_path / "a", 1)
    save(tmp_path / "a", 2)
    assert saved_value(tmp_path / "a") == 2


def test_a_model_called_by_a_long_name_is_saved(tmp_path):
    for value in (1, 2):
        save(tmp_path / ("x" * 250), value)
        write_torch_file(tmp_path / ("y" * 250 + ".pt"), {}, {})
    assert saved_value(tmp_path / ("x" * 250)) == 2
    assert len(list(tmp_path.iterdir())) == 2


def put_aside(path):
    """Leave what a save leaves that is killed between its two renames."""
    os.rename(path, path.with_name(f".{path.name}.previous"))


def test_the_folder_that_a_script_creates_after_a_kill_does_not_cost_the_model(tmp_path):
    save(tmp_path / "a", 1)
    put_aside(tmp_path / "a")
    (tmp_path / "a").mkdir()
    assert newest(tmp_path / "a") == tmp_path / "a"
    assert saved_value(tmp_path / "a") == 1
    check_destination(tmp_path / "a")
    assert saved_value(tmp_path / "a") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_what_others_put_in_its_place_after_a_kill_does_not_cost_the_model(tmp_path):
    save(tmp_path / "a", 1)
    put_aside(tmp_path / "a")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        check_destination(tmp_path / "a")
    assert saved_value(tmp_path / ".a.previous") == 1


def test_a_link_to_a_model_that_a_kill_put_aside_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    save(tmp_path / "disk" / "a", 1)
    (tmp_path / "a").symlink_to("disk/a")
    save(tmp_path / "a.step-000000001", 0)
    put_aside(tmp_path / "disk" / "a")
    assert newest(tmp_path / "a") is not None
    check_destination(tmp_path / "a")
    assert saved_value(tmp_path / "disk" / "a") == 1
    os.rename(tmp_path / "disk" / "a", tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="is a link to"):
        check_destination(tmp_path / "a")


def test_an_interrupt_between_the_renames_leaves_the_old_one_in_its_place(tmp_path, monkeypatch):
    save(tmp_path / "a", 1)
    real, renames = os.rename, []

    def rename(*paths, **named):
        renames.append(paths)
        real(*paths, **named)
        if len(renames) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "a", 2)
    assert (tmp_path / "a" / "manifest.json").exists()
    assert saved_value(tmp_path / "a") == 1


@pytest.mark.parametrize("mode", [0o700, 0o2770, 0o755])
def test_who_may_read_a_model_does_not_change_when_it_is_saved_again(tmp_path, mode):
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(mode)
    save(tmp_path / "a", 1)
    save(tmp_path / "a", 2)
    write_torch_file(tmp_path / "b.pt", {}, {})
    (tmp_path / "b.pt").chmod(mode & 0o666)
    write_torch_file(tmp_path / "b.pt", {}, {})
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "b.pt")]
    assert modes == [mode, mode & 0o666]


def test_a_model_without_the_permission_to_write_stays_and_nothing_else_does(tmp_path, monkeypatch):
    """Its mode is given to what takes its place, which could not even be removed then."""
    save(tmp_path / "a", 1)
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "a" and may(path, mode))
    with pytest.raises(CheckpointError, match="not this user's to remove"):
        save(tmp_path / "a", 2)
    assert saved_value(tmp_path / "a") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    for call in (check_destination, lambda path: save(path, 1)):
        with pytest.raises(CheckpointError, match="is the current folder"):
            call(Path())
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a", 1)
    (tmp_path / "a" / "notes").mkdir()
    (tmp_path / "a" / "notes" / "mine").write_text("mine")
    monkeypatch.chdir(tmp_path / "a" / "notes")  # moves along
    save(tmp_path / "a", 2)
    assert Path("mine").read_text() == "mine"
