"""Files appear whole or not at all, and take the place of nothing but our own."""

import errno
import fcntl
import mmap
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dlrmjit.errors import ConfigError
from dlrmjit.files import (
    NewFiles,
    check_all_new,
    check_differs,
    check_new,
    create_from_pages,
    is_signed,
    new_folder,
    open_log,
    replaced_file,
    require_space,
    try_destination,
)
from dlrmjit.files import destination as destinations

ROOT = Path(__file__).parents[2]


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("group", ["killed_group", "killed_group_without_links"])
def test_a_kill_leaves_all_files_or_the_next_start_none(group):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
    command = [sys.executable, "-m", "tests.files.kills", f"tests.files.{group}"]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 15


def write_three(folder, then=lambda: None):
    with NewFiles(folder, "a") as files:
        for name in "abc":
            with files.open(name) as file:
                file.write(name.encode())
        then()


@pytest.mark.parametrize("links", [True, False])
def test_files_appear_together(tmp_path, monkeypatch, links):
    if not links:

        def link(*_, **__):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", link)
    write_three(tmp_path)
    assert names(tmp_path) == ["a", "b", "c"]
    assert (tmp_path / "b").read_text() == "b"


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("taken", ["file", "folder", "link", "dangling"])
def test_a_name_that_is_taken_meanwhile_takes_all_back(tmp_path, monkeypatch, links, taken):
    if not links:
        monkeypatch.setattr(
            os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOTSUP, "no"))
        )
    (tmp_path / "mine").write_text("mine")
    at = tmp_path / "c"
    take = {
        "file": lambda: at.write_text("mine"),
        "folder": at.mkdir,
        "link": lambda: at.symlink_to("mine"),
        "dangling": lambda: at.symlink_to("nothing"),
    }[taken]
    with pytest.raises(ConfigError, match="does not replace"):
        write_three(tmp_path, then=take)
    assert names(tmp_path) == ["c", "mine"]
    assert (tmp_path / "mine").read_text() == "mine"


def fail():
    raise ZeroDivisionError


def write_folder(path, then):
    with new_folder(path) as fresh:
        (fresh / "x").write_text("x")
        then()


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_three(tmp_path, then=fail)
    with pytest.raises(ZeroDivisionError):
        write_folder(tmp_path / "a", then=fail)
    assert names(tmp_path) == []


def test_a_new_folder_takes_no_name_that_is_taken_meanwhile(tmp_path):
    def take():
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "mine").write_text("mine")

    with pytest.raises(ConfigError, match="exists"):
        write_folder(tmp_path / "a", then=take)
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a" / "mine").read_text() == "mine"


def test_a_signature_ends_with_the_first_change_by_others(tmp_path):
    path = tmp_path / "scores.csv"
    for _ in range(2):
        with replaced_file(path, is_signed, signs=True) as file:
            file.write(b"row,score\n")
        if not is_signed(path):
            pytest.skip("this file system has no notes on files")
    os.link(path, tmp_path / "backup.csv")
    with replaced_file(path, is_signed, signs=True) as file:
        file.write(b"new\n")
    assert (tmp_path / "backup.csv").read_text() == "row,score\n"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="does not replace"), replaced_file(path, is_signed):
        pass
    assert path.read_text() == "mine"


def test_inputs_are_known_by_any_name(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").symlink_to("a")
    os.link(tmp_path / "a", tmp_path / "c")
    for name in "abc":
        with pytest.raises(ConfigError, match="is the data"):
            check_differs(tmp_path / name, {"the data": tmp_path / "a"})
    check_differs(tmp_path / "d", {"the data": tmp_path / "a"})


def test_destinations_are_tried(tmp_path, monkeypatch):
    try_destination(tmp_path / "new")
    check_all_new([tmp_path / "new", tmp_path / "other"])
    assert names(tmp_path) == []
    with pytest.raises(ConfigError, match="does not exist; create it"):
        check_new(tmp_path / "absent" / "x")
    with pytest.raises(ConfigError, match=r"1048576\.00 GiB"):
        require_space(tmp_path / "x", 1 << 50, "the model")
    monkeypatch.setattr(destinations.shutil, "disk_usage", lambda _: SimpleNamespace(free=65_536))
    with pytest.raises(ConfigError, match=r"needs 170,000 bytes at .*but 65,536 bytes are free"):
        require_space(tmp_path / "x", 170_000, "the model")
    monkeypatch.setattr(destinations, "is_mount_point", lambda _: True)
    (tmp_path / "mount").mkdir()
    with pytest.raises(ConfigError, match="is a mount point"):
        try_destination(tmp_path / "mount")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(destinations, "create", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        try_destination(tmp_path / "new")
    assert names(tmp_path) == ["mount"]


def test_mount_points_are_recognised():
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert destinations.is_mount_point(Path("/proc"))
    assert all(destinations.is_mount_point(Path(p)) for p in points if "\\" not in p)
    assert not destinations.is_mount_point(ROOT / "dlrmjit" / "files")


def is_log(path):
    return path.read_bytes().startswith(b"log")


def append(path, text, *, to):
    with open_log(path, is_log, append=to) as log:
        log.write(text)


def test_a_log_is_appended_to_or_begun_again(tmp_path):
    path = tmp_path / "log"
    append(path, b"log 1\nhal", to=False)
    append(path, b"2\n", to=True)
    assert path.read_bytes() == b"log 1\n2\n"
    os.link(path, tmp_path / "backup")
    append(path, b"log 3\n", to=False)
    assert path.read_bytes() == b"log 3\n"
    assert (tmp_path / "backup").read_bytes() == b"log 1\n2\n"
    (tmp_path / "link").symlink_to("log")
    append(tmp_path / "link", b"4\n", to=True)
    assert path.read_bytes() == b"log 3\n4\n"
    path.write_bytes(b"mine")
    for to in (True, False):
        with pytest.raises(ConfigError, match="does not replace"):
            append(path, b"x", to=to)
    assert path.read_bytes() == b"mine"


def test_a_log_may_be_a_pipe_or_a_descriptor(tmp_path):
    reader, writer = os.pipe()
    append(Path(f"/dev/fd/{writer}"), b"line\n", to=False)
    assert os.read(reader, 10) == b"line\n"
    os.close(reader)
    os.close(writer)
    append(Path(os.devnull), b"line\n", to=False)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device"):
        append(tmp_path / "pipe", b"x", to=False)
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    append(tmp_path / "pipe", b"line\n", to=False)
    assert os.read(reader, 10) == b"line\n"
    os.close(reader)
    with pytest.raises(ConfigError, match="is not open"):
        append(Path("/dev/fd/987"), b"x", to=False)


@pytest.mark.parametrize("refused", ["nothing", "flag", "write"])
@pytest.mark.parametrize("size", [0, 1, 4096, 4097, (1 << 25) + 5])
def test_a_file_of_pages_has_their_first_bytes_whatever_the_file_system_can_do(
    tmp_path, monkeypatch, size, refused
):
    pages = mmap.mmap(-1, -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE)
    content = np.random.default_rng(size).bytes(len(pages))
    pages[:] = content
    set_flags, write = fcntl.fcntl, os.write
    uncached = []

    def deny_flag(descriptor, command, *flags):
        if command == fcntl.F_SETFL:
            raise OSError(errno.EINVAL, "no direct access")
        return set_flags(descriptor, command, *flags)

    def deny_write(descriptor, data):
        if set_flags(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            uncached.append(descriptor)
            raise OSError(errno.EINVAL, "larger blocks")
        return write(descriptor, data)

    if refused == "flag":
        monkeypatch.setattr(fcntl, "fcntl", deny_flag)
    elif refused == "write":
        monkeypatch.setattr(os, "write", deny_write)
    create_from_pages(tmp_path / "file", pages, size)
    assert (tmp_path / "file").read_bytes() == content[:size]
    assert len(uncached) <= 1
    with pytest.raises(FileExistsError):
        create_from_pages(tmp_path / "file", pages, size)


def test_a_disk_that_is_full_ends_a_file_of_pages_with_its_error(tmp_path, monkeypatch):
    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="full"):
        create_from_pages(tmp_path / "file", mmap.mmap(-1, mmap.PAGESIZE), 5)
