"""A load that a save overtakes reads all of one checkpoint."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.checkpoint import open_checkpoint, write_torch_file
from dlrmjit.checkpoint.open_files import OpenFiles
from dlrmjit.checkpoint.torch_format.archive import TorchArchive
from dlrmjit.checkpoint.torch_format.pickle import Storage
from dlrmjit.errors import CheckpointError
from tests.checkpoint.test_destination import ROOT, save, saved_value

SAVING = """
import sys
from pathlib import Path
from tests.checkpoint.test_destination import save
value = 0
while not Path(sys.argv[1]).with_name("stop").exists():
    value += 1
    save(Path(sys.argv[1]), value, rows=5)
"""


def test_what_was_opened_stays_what_it_is(tmp_path):
    save(tmp_path / "a", 1, rows=9)
    opened = open_checkpoint(tmp_path / "a")
    for value in (2, 3):
        save(tmp_path / "a", value, rows=2)
    assert np.all(opened.state["emb_l.0.weight"] == 1)
    assert opened.state["emb_l.0.weight"].shape == (9, 2)
    assert saved_value(tmp_path / "a") == 3
    assert opened.digest != open_checkpoint(tmp_path / "a").digest


def test_loads_while_another_process_saves(tmp_path):
    save(tmp_path / "a", 0, rows=5)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
    command = [sys.executable, "-c", SAVING, str(tmp_path / "a")]
    with subprocess.Popen(command, env=environment, cwd=ROOT) as saving:
        seen = []
        try:
            while len(set(seen)) < 30 and saving.poll() is None:
                seen.append(saved_value(tmp_path / "a"))
        finally:
            (tmp_path / "stop").touch()
    assert saving.returncode == 0
    assert seen == sorted(seen)
    assert len(set(seen)) >= 30


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_files_are_closed_with_what_reads_them(tmp_path):
    save(tmp_path / "a", 1)
    before = descriptors()
    opened = open_checkpoint(tmp_path / "a")
    assert descriptors() > before
    del opened
    assert descriptors() == before
    with pytest.raises(FileNotFoundError):
        OpenFiles(tmp_path / "a", ["manifest.json", "absent"])
    assert descriptors() == before


def test_more_files_than_the_limit_are_opened_as_far_as_the_system_allows(tmp_path):
    save(tmp_path / "a", 1, rows=40)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 10, before[1]))
    try:
        assert saved_value(tmp_path / "a") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_messages_name_the_files_themselves(tmp_path):
    save(tmp_path / "a", 1)
    path = tmp_path / "a" / "table-00000-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=str(path)):
        open_checkpoint(tmp_path / "a")
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match=str(path)):
        open_checkpoint(tmp_path / "a")
    Path(path).rmdir()
    with pytest.raises(CheckpointError, match=f"{path}: the manifest lists this file"):
        open_checkpoint(tmp_path / "a")


def test_a_reference_file_that_is_replaced_while_it_is_read(tmp_path):
    def write(value, rows):
        state = {f"emb_l.{i}.weight": np.full((rows, 4), value, np.float32) for i in range(3)}
        write_torch_file(tmp_path / "a.pt", state, {})

    write(1, rows=9)
    with TorchArchive(tmp_path / "a.pt") as archive:
        write(2, rows=20)
        for key in range(3):
            assert np.all(archive.storage(Storage(str(key), "float32", 36)) == 1)
