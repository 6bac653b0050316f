"""Where a preparation works: nothing of others is removed, followed or replaced."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepare.work_dir import WorkDir
from dlrmjit.data.prepared.manifest import Manifest
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import Schema
from dlrmjit.errors import ConfigError, DataError
from dlrmjit.files import work_folder
from tests.data.prepare.killed_publishing import publish, value_of

ROOT = Path(__file__).parents[3]
SCHEMA = Schema.from_dict({"label": "y", "dense": ["d"], "categorical": ["c"]}, "s.json")


def options(folder, **named):
    path = folder / "log.csv"
    if not path.exists():
        path.write_text("y,d,c\n0,1,a\n1,2,b\n")
    given = {"schema": SCHEMA, "split": SplitRule("none"), **named}
    return PrepareOptions((path,), folder / "set", **given)


def test_a_kill_while_a_set_is_published_leaves_a_whole_set_and_nothing_else():
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
    command = [sys.executable, "-m", "tests.files.kills", "tests.data.prepare.killed_publishing"]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 20


@pytest.mark.parametrize(
    "manifest",
    [
        "years of work",
        "{}",
        '{"format": "dlrmjit-checkpoint", "version": 1, "files": {}}',
        '{"format": "dlrmjit-set", "version": 1, "files": {}, "digest": "0"}',
    ],
)
def test_only_a_set_by_its_own_manifest_is_replaced(tmp_path, manifest):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "manifest.json").write_text(manifest)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="is not replaced"):
        prepare(options(tmp_path, replace=True))
    assert (folder / "manifest.json").read_text() == manifest
    assert (folder / "thesis.tex").read_text() == "years of work"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["log.csv", "set"]


def test_a_listed_file_that_somebody_changed_is_named(tmp_path):
    publish(tmp_path / "set", "old")
    (tmp_path / "set" / "train" / "labels.npy").write_text("mine")
    with pytest.raises(ConfigError, match=r"'train/labels\.npy'.*move"):
        WorkDir(tmp_path / "set", replace=True)


def test_a_new_set_does_not_take_the_name_of_a_file_of_others(tmp_path):
    prepare(options(tmp_path))
    (tmp_path / "set" / "train" / "offsets_0.npy").write_text("mine")
    other = Schema.from_dict(
        {"label": "y", "dense": ["d"], "categorical": [{"name": "c", "separator": "|"}]}, "s.json"
    )
    with pytest.raises(ConfigError, match=r"'train/offsets_0\.npy'.*does not list"):
        prepare(options(tmp_path, replace=True, schema=other))
    assert (tmp_path / "set" / "train" / "offsets_0.npy").read_text() == "mine"
    assert not PreparedSet(tmp_path / "set").manifest.categorical[0].is_multi


def test_names_that_can_be_guessed_are_neither_followed_nor_removed(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "lock").write_text("mine")
    (tmp_path / ".set.preparing").symlink_to(theirs)
    (tmp_path / ".set.preparing-0123456789abcdef").symlink_to(theirs)
    work = tmp_path / ".set.preparing-0123456789abcde0"
    work.mkdir()
    (work / "journal.json").write_text("mine")
    prepare(options(tmp_path))
    assert (theirs / "lock").read_text() == "mine"
    assert [entry.name for entry in theirs.iterdir()] == ["lock"]
    assert (work / "journal.json").read_text() == "mine"


def test_outputs_that_cannot_be_are_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out, said in (
        (Path("/"), "cannot be replaced"),
        (tmp_path / "file" / "set", "cannot be written"),
        (tmp_path / "link", "is a link to"),
        (tmp_path / ("x" * 300), "cannot be written"),
    ):
        with pytest.raises((ConfigError, DataError), match=said):
            WorkDir(out, replace=True)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    publish(tmp_path / "set", "old")
    with WorkDir(tmp_path / "set", replace=True) as first:
        first.open_journal({}, 0.0, resume=False).note("parse", {}, now=True)
        with (
            WorkDir(tmp_path / "set", replace=True) as second,
            pytest.raises(DataError, match="another process is preparing"),
        ):
            second.open_journal({}, 0.0, resume=False)
    with WorkDir(tmp_path / "set", replace=True) as third:  # the first is closed by now
        assert third.open_journal({}, 0.0, resume=True).stage("parse") == {}
    assert value_of(tmp_path / "set") == "old"


def test_without_locks_the_work_of_another_host_is_left_alone(tmp_path, monkeypatch):
    with WorkDir(tmp_path / "set", replace=False) as first:
        first.open_journal({}, 0.0, resume=False)
        marker = first.work / work_folder.MARKER
    text = marker.read_bytes()
    owner = json.loads(text)
    marker.write_text(" " * 16 + json.dumps({**owner, "host": "another"}))
    monkeypatch.setattr(work_folder, "try_lock", lambda _: None)
    with (
        WorkDir(tmp_path / "set", replace=False) as second,
        pytest.raises(DataError, match="another process is preparing"),
    ):
        second.open_journal({}, 0.0, resume=False)
    assert marker.exists()


def test_resuming_a_finished_set_notices_other_contents_of_an_input(tmp_path):
    asked = options(tmp_path, resume=True)
    first = prepare(asked)
    assert prepare(asked) == first
    path = tmp_path / "log.csv"
    before = path.stat()
    path.write_text("y,d,c\n1,1,a\n0,2,b\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ConfigError, match=r"log\.csv changed since the set .*--replace"):
        prepare(asked)
    prepare(options(tmp_path, resume=True, replace=True))
    table = PreparedSet(tmp_path / "set").dataset("train")
    assert sorted(zip(table.labels.tolist(), table.dense[:, 0].tolist(), strict=True)) == [
        (0, 2.0),
        (1, 1.0),
    ]


def test_without_notes_on_files_times_decide(tmp_path):
    asked = options(tmp_path, resume=True)
    prepare(asked)
    manifest = tmp_path / "set" / "manifest.json"
    if hasattr(os, "removexattr") and os.listxattr(manifest):
        os.removexattr(manifest, "user.dlrmjit.inputs")
    assert prepare(asked).splits == {"train": 2}
    path = tmp_path / "log.csv"
    before = path.stat()
    path.write_text("y,d,c\n1,1,a\n0,2,b\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ConfigError, match="changed since the set"):
        prepare(asked)


def test_an_input_that_changes_meanwhile_is_named(tmp_path):
    def change(step, *_):
        if step == "check":
            (tmp_path / "log.csv").write_text("y,d,c\n1,1,a\n0,2,b\n")

    with pytest.raises(DataError, match=r"log\.csv changed while it was prepared"):
        prepare(options(tmp_path), change)
    assert not (tmp_path / "set").exists()


def rewritten(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= changes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    from dlrmjit.data.prepared import manifest as module

    manifest["digest"] = module._digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_names_in_a_manifest_do_not_lead_out_of_the_set(tmp_path):
    publish(tmp_path / "set", "old")
    facts = {"bytes": 1, "sha256": ""}
    column = {"name": "c", "rows": 1, "vocabulary": "../../etc/hostname", "is_multi": False}
    for changes in (
        {"files": {"../x": facts}},
        {"files": {"/etc/hostname": facts}},
        {"files": {"train/../../x": facts}},
        {"splits": {"../train": 1}},
        {"categorical": [column | {"shares_row": False}]},
    ):
        rewritten(tmp_path / "set", **changes)
        with pytest.raises(DataError):
            Manifest.read(tmp_path / "set")
        rewritten(tmp_path / "set", files={}, splits={}, categorical=[])


def test_a_set_that_appears_meanwhile_is_not_replaced_unasked(tmp_path):
    prepare(options(tmp_path))
    (tmp_path / "set").rename(tmp_path / "other")

    def appears(step, done, total, rows):
        if step == "check":
            (tmp_path / "other").rename(tmp_path / "set")

    with pytest.raises(ConfigError, match="exists by now"):
        prepare(options(tmp_path, seed=7), appears)
    assert PreparedSet(tmp_path / "set").manifest.origin["options"]["seed"] == 123
    prepare(options(tmp_path, seed=7, resume=True, replace=True))
    assert PreparedSet(tmp_path / "set").manifest.origin["options"]["seed"] == 7
