"""Folders of work are created and cleared by several processes at once."""

import fcntl
import os
from pathlib import Path

from dlrmjit.files import work_folder
from dlrmjit.files.work_folder import MARKER, WRITING, WorkFolder, clear_abandoned


def test_a_folder_that_another_process_is_removing_is_not_used(tmp_path, monkeypatch):
    held = []
    open_new = work_folder.open_new

    def opened(path, mode):
        marker = open_new(path, mode)
        if not held:  # a process that examines the folder has locked the new marker already
            held.append(os.open(path, os.O_RDWR))
            fcntl.flock(held[0], fcntl.LOCK_EX)
        return marker

    monkeypatch.setattr(work_folder, "open_new", opened)
    work = WorkFolder.create(tmp_path / "model", WRITING)
    first = next(path for path in tmp_path.iterdir() if path != work.path)
    assert (first / MARKER).read_bytes() == b""

    os.close(held[0])
    clear_abandoned(tmp_path / "model", WRITING)
    assert list(tmp_path.iterdir()) == [work.path]
    work.remove()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_goes_while_it_is_examined_is_passed_over(tmp_path, monkeypatch):
    work = WorkFolder.create(tmp_path / "model", WRITING)
    lstat = Path.lstat

    def gone(path):
        if path == work.path:  # its process ends just now
            work.remove()
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", gone)
    clear_abandoned(tmp_path / "model", WRITING)
    assert not list(tmp_path.iterdir())
