"""Processes that work towards one target keep each other out, also where one of them dies."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from dlrmjit.errors import ConfigError
from dlrmjit.files import hold, refuse_held, work_folder

KIND, WORK = "training", "works on"
HOLDS = """
import os, sys, time
from pathlib import Path
from dlrmjit.files import hold
work = hold(Path(sys.argv[1]), "training", "works on")
if sys.argv[2] == "forks" and not os.fork():
    os.close(1)
    time.sleep(60)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Start another process that holds ``model``; its group ends with the test."""
    started = []

    def start(how="alone"):
        command = [sys.executable, "-c", HOLDS, str(tmp_path / "model"), how]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def without_locks(monkeypatch):
    monkeypatch.setattr(work_folder, "try_lock", lambda descriptor: None)


def assert_free_after(process, folder):
    """Kill the process that holds ``model``; another holds it then, and nothing stays."""
    process.kill()
    process.wait()
    hold(folder / "model", KIND, WORK).remove()
    assert not list(folder.iterdir())


def test_one_process_at_a_time_holds_a_target(tmp_path, other):
    process = other()
    with pytest.raises(ConfigError) as error:
        hold(tmp_path / "model", KIND, WORK)
    assert f"process {process.pid} of {socket.gethostname()} works on {tmp_path / 'model'}" in str(
        error.value
    )
    hold(tmp_path / "another", KIND, WORK).remove()

    process.kill()
    process.wait()
    work = hold(tmp_path / "model", KIND, WORK)
    assert list(tmp_path.iterdir()) == [work.path]
    with pytest.raises(ConfigError, match="this process works on"):
        refuse_held(tmp_path / "model", KIND, WORK)
    work.remove()
    refuse_held(tmp_path / "model", KIND, WORK)
    assert not list(tmp_path.iterdir())


def test_a_child_that_outlives_its_process_holds_nothing(tmp_path, other):
    process = other("forks")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    hold(tmp_path / "model", KIND, WORK).remove()


def test_without_locks_a_process_of_this_host_is_asked_for(tmp_path, other, monkeypatch):
    process = other()
    without_locks(monkeypatch)
    with pytest.raises(ConfigError, match=f"process {process.pid} of"):
        hold(tmp_path / "model", KIND, WORK)
    assert_free_after(process, tmp_path)


def test_without_locks_a_process_of_another_host_is_not_waited_for(tmp_path, other, monkeypatch):
    other()
    without_locks(monkeypatch)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    work = hold(tmp_path / "model", KIND, WORK)
    assert len(list(tmp_path.iterdir())) == 2  # what may be alive is not removed
    work.remove()


@pytest.mark.parametrize("part", ["_boot", "_pid_namespace"])
def test_a_lock_of_another_container_or_host_of_the_same_name_counts(
    tmp_path, other, monkeypatch, part
):
    process = other()
    monkeypatch.setattr(work_folder, part, lambda: "another")
    monkeypatch.setattr(work_folder, "_start", lambda pid="self": None)  # its number is not known
    with pytest.raises(ConfigError, match=f"process {process.pid} of"):
        hold(tmp_path / "model", KIND, WORK)
    assert_free_after(process, tmp_path)
