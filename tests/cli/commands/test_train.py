"""Exit codes, and what is loaded before the options are known to be right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dlrmjit.cli.commands import train as module
from dlrmjit.train import main

ROOT = Path(__file__).parents[3]


def program(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


RUN = "import sys; from dlrmjit.train import main; sys.exit(main(sys.argv[1:]))"
LIGHT = (
    "import sys; from dlrmjit.train import main; code = main(sys.argv[1:]);"
    "print([m for m in ('numba', 'numpy', 'llvmlite', 'rich') if m in sys.modules]);"
    "sys.exit(code)"
)


def test_mistakes_are_answered_before_anything_heavy_is_loaded() -> None:
    done = program(LIGHT, "--mini-batch-size=0")
    assert (done.returncode, done.stdout) == (2, "[]\n")
    assert done.stderr == "dlrmjit: error: --mini-batch-size must be at least 1, not 0\n"


def test_the_program_starts_as_a_module() -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-m", "dlrmjit.train", "--version"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.startswith("dlrmjit ")


def test_there_may_be_more_threads_than_cpus() -> None:
    count = (os.cpu_count() or 1) + 1
    done = program(RUN, f"--threads={count}", "--num-batches=1", "--backend=reference")
    assert done.returncode == 0, done.stderr
    assert f"{count} of " in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes of POSIX")
def test_a_closed_output_ends_a_run_without_a_traceback() -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    command = [sys.executable, "-c", RUN, "--num-batches=100000", "--backend=reference"]
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "Using CPU...\n"
        process.stdout.close()
        notes = process.stderr.read().splitlines()  # of other programs on this machine
        assert [line for line in notes if not line.startswith("dlrmjit: note: ")] == []
        assert process.wait(timeout=120) == 1


def test_an_interruption_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_run", interrupt)
    assert main([]) == 130
    assert capsys.readouterr().err == "dlrmjit: interrupted\n"


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "_run", fail)
    with pytest.raises(ZeroDivisionError):
        main([])
