"""Helpers run only at a first start, compile, and never disturb the program that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dlrmjit_kernels.runtime.cache import folder
from dlrmjit_kernels.runtime.compile import version_folder

from dlrmjit.config.model import ModelConfig
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.config.training import LossConfig
from dlrmjit.warm import Rehearsal, compile_ahead, helpers


@pytest.fixture
def rehearsal() -> Rehearsal:
    config = ModelConfig((50, 70, 3), 16, (5, 20, 16), (24, 1))
    return Rehearsal.of(config.architecture, 37, UpdateConfig.of("sgd"), LossConfig(), "fp32")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sources: list[int] = []
    monkeypatch.setattr(helpers, "available_cpus", lambda: 4)
    monkeypatch.setattr(helpers, "_start", lambda rehearsal, source: sources.append(source))
    return sources


def test_a_first_start_has_a_helper_on_every_other_cpu(
    rehearsal: Rehearsal, started: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(tmp_path / "cache"))
    compile_ahead(rehearsal)
    assert len(started) == 3


def test_a_cache_with_the_kernels_of_a_training_needs_no_helper(
    rehearsal: Rehearsal, started: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(tmp_path / "cache"))
    for i in range(100):
        folder.write(version_folder(), f"kernel{i}", b"")
    compile_ahead(rehearsal)
    assert started == []


def test_a_system_that_refuses_to_fork_has_no_helpers(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(helpers, "available_cpus", lambda: 4)
    monkeypatch.setattr(os, "fork", refuse)
    assert helpers._start_helpers(rehearsal) == []


def test_every_kernel_is_taken_once(rehearsal: Rehearsal, tmp_path: Path) -> None:
    """Both read numbers at the same time, as long as there are any."""
    source, target = os.pipe()
    os.write(target, b"".join(i.to_bytes(2, "little") for i in range(1000)))
    os.close(target)
    child = os.fork()
    if child == 0:
        numbers = list(helpers._taken(source, os.getppid()))
        (tmp_path / "numbers").write_text(" ".join(map(str, numbers)))
        os._exit(0)
    ours = list(helpers._taken(source, os.getppid()))
    os.waitpid(child, 0)
    os.close(source)
    theirs = [int(word) for word in (tmp_path / "numbers").read_text().split()]
    assert sorted(ours + theirs) == list(range(1000))


def test_a_helper_whose_caller_ended_takes_no_more(rehearsal: Rehearsal) -> None:
    source, target = os.pipe()
    os.write(target, b"\0\0")
    os.close(target)
    assert list(helpers._taken(source, os.getppid() + 1)) == []
    os.close(source)


_FORKING = """
import os, signal, sys, time
from dlrmjit.config.model import ModelConfig
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.config.training import LossConfig
from dlrmjit.warm import Rehearsal, helpers

def pretend(rehearsal, numbers):
    print("not seen")
    {program}

helpers.available_cpus = lambda: 3
helpers.compile_some = pretend
signal.signal(signal.SIGTERM, lambda *_: None)
started = helpers._start_helpers(None)
print(*started, flush=True)
"""


def _forking(program: str, after: str = "") -> subprocess.CompletedProcess[str]:
    source = _FORKING.format(program=program) + after
    return subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=100, check=False
    )


def test_helpers_print_nothing_and_their_failure_is_not_noticed() -> None:
    done = _forking("raise OSError", "for pid in started: os.waitpid(pid, 0)\n")
    assert len(done.stdout.split()) == 2
    assert done.stderr == ""


def test_helpers_end_with_their_program() -> None:
    began = time.monotonic()
    done = _forking("time.sleep(50)")
    assert time.monotonic() - began < 45, "its output was open until they ended"
    while any(map(_runs, done.stdout.split())):
        assert time.monotonic() - began < 45, "they went on"
        time.sleep(0.05)


def _runs(pid: str) -> bool:
    """Return whether a process runs; one that ended may still be in the table of processes."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_helpers_end_by_the_signal_that_their_program_handles() -> None:
    after = (
        "while os.getsid(started[0]) != started[0]: time.sleep(0.01)\n"
        "os.kill(started[0], signal.SIGTERM)\nprint(os.waitpid(started[0], 0)[1])\n"
    )
    done = _forking("time.sleep(50)", after)
    assert done.stdout.split()[-1] == str(int(signal.SIGTERM))


_COMPILING = """
from dlrmjit.config.model import ModelConfig
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.config.training import LossConfig
from dlrmjit_kernels import compile_events
from dlrmjit.warm import Rehearsal, helpers
import os

config = ModelConfig((50, 70, 3), 16, (5, 20, 16), (24, 1))
rehearsal = Rehearsal.of(config.architecture, 37, UpdateConfig.of("sgd"), LossConfig(), "fp32")
helpers.available_cpus = lambda: 3
for helper in helpers._start_helpers(rehearsal):
    os.waitpid(helper, 0)
compiled = []
with compile_events.observed_by(lambda: compiled.append(1)):
    for compile_it in rehearsal.kernels():
        compile_it()
print(len(compiled))
"""


def test_helpers_compile_all_that_a_training_needs(tmp_path: Path) -> None:
    environment = {**os.environ, "DLRMJIT_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", _COMPILING],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "0\n", done.stderr
