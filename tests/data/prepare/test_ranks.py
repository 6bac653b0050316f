"""``mpiexec -n R dlrmjit prepare``: the bytes, the words and the exit codes of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.prepare.builders import contents, criteo_lines
from tests.parallel.launch import environment, mpiexec, needs_mpi, run_ranks

pytestmark = needs_mpi


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "train.txt"
    path.write_bytes(b"".join(criteo_lines(3000, 1)))
    return path


def command(text: Path, out: Path, *options: str) -> list[str]:
    return ["-m", "dlrmjit", "prepare", str(text), "--out", str(out), *options]


@pytest.fixture(scope="module")
def alone(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "set"
    done = subprocess.run([sys.executable, *command(text, out)], env=environment())
    assert done.returncode == 0
    return out


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_give_the_bytes_of_one_process(
    text: Path, alone: Path, tmp_path: Path, ranks: int
) -> None:
    done = run_ranks(ranks, *command(text, tmp_path / "set"))
    assert contents(tmp_path / "set") == contents(alone)
    assert done.stdout.count("3,000 rows") == 1
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("ranks", [2])
def test_a_wrong_input_is_one_sentence(text: Path, alone: Path, tmp_path: Path, ranks: int) -> None:
    lines = text.read_bytes().splitlines(keepends=True)
    (tmp_path / "bad.txt").write_bytes(b"".join([*lines[:2000], b"no line\n"]))
    out = tmp_path / "set"
    for words, said in (
        (command(tmp_path / "bad.txt", out), "bad.txt, line 2001: 1 columns, expected"),
        (command(tmp_path / "none.txt", out), "none.txt cannot be read: No such file"),
        (command(text, alone), "exists; choose another --out"),
        (command(text, out, "--seed=x"), "invalid int value"),
        (["-m", "dlrmjit", "prepare", "--out", str(alone), "--verify"], "runs in one process"),
    ):
        before = contents(alone)
        done = run_ranks(ranks, *words, check=False)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert done.stderr.count("dlrmjit: error") == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert contents(alone) == before
        assert not out.exists()


def test_ranks_that_were_started_differently_are_refused(text: Path, tmp_path: Path) -> None:
    words = command(text, tmp_path / "set")
    launch = [mpiexec(), "-n", "1", sys.executable, *words]
    done = subprocess.run(
        [*launch, ":", "-n", "1", sys.executable, *words, "--seed=5"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "--seed is 5 on rank 1 and 123 on rank 0" in done.stderr
    assert done.stderr.count("dlrmjit: error") == 1
    assert not os.listdir(tmp_path)


PATCHED = """
import os, sys
rank, action = int(sys.argv.pop(1)), sys.argv.pop(1)
from dlrmjit.data.prepare.team import RankTeam
whole, write = RankTeam.map, os.pwrite
left = [10]
def kill(self, work, items, workers=1):
    for number, found in enumerate(whole(self, work, items, workers)):
        if number == 4 and self.rank == rank:
            os.kill(os.getpid(), 9)
        yield found
def fail(*arguments):
    left[0] -= 1
    if left[0] < 0:
        raise OSError(28, "No space left on device")
    return write(*arguments)
def interrupt(self, work, items, workers=1):
    found = whole(self, work, items, workers)
    if self.rank == rank and len(items) > 4:
        raise KeyboardInterrupt
    return found
if action == "fail" and int(os.environ["PMI_RANK"]) == rank:
    os.pwrite = fail
elif action != "fail":
    RankTeam.map = {"kill": kill, "interrupt": interrupt}[action]
from dlrmjit.cli.commands.prepare import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("rank", "action", "code", "said"),
    [
        (0, "kill", None, ""),
        (1, "kill", None, ""),
        (1, "fail", 2, "cannot be written: No space left on device; free some space"),
        (1, "interrupt", 130, "dlrmjit: interrupted"),
    ],
)
def test_a_rank_that_ends_ends_all_and_the_next_run_resumes(
    text: Path, alone: Path, tmp_path: Path, rank: int, action: str, code: int | None, said: str
) -> None:
    (tmp_path / "patched.py").write_text(PATCHED)
    out = tmp_path / "sets" / "set"
    out.parent.mkdir()
    words = command(text, out)[3:]
    done = run_ranks(2, tmp_path / "patched.py", rank, action, *words, check=False, timeout=100)
    assert done.returncode != 0 if code is None else done.returncode == code, done.stderr
    assert done.stderr.count("dlrmjit: ") == bool(said), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
    assert len(os.listdir(out.parent)) == 1
    run_ranks(2, *command(text, out, "--resume"))
    assert contents(out) == contents(alone)
    assert os.listdir(out.parent) == ["set"]
