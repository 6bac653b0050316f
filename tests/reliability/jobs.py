"""Runs jobs whose ranks differ, and judges how they end: promptly, in one sentence, with a code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.parallel.launch import ROOT, environment, mpiexec
from tests.reliability.running_time import RunningTime

TRAIN = ("-m", "dlrmjit.train")
SMALL = (
    "--data-generation=synthetic",
    "--mini-batch-size=32",
    "--arch-sparse-feature-size=4",
    "--arch-embedding-size=50-7-9",
    "--arch-mlp-bot=13-4",
    "--arch-mlp-top=8-1",
    "--backend=reference",
)
LIMIT = 4.0  # seconds of --comm-timeout
SENTENCE = re.compile(r"^dlrmjit: error: .*", re.MULTILINE)


@dataclass(frozen=True)
class Rank:
    """What one rank runs: ``python PROGRAM OPTIONS``, with changes of the environment."""

    program: tuple[str, ...] = TRAIN
    options: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    def command(self) -> list[str]:
        """Return its part of the command line of mpiexec."""
        variables = [f"{name}={value}" for name, value in self.env.items()]
        return ["-n", "1", "env", *variables, sys.executable, *self.program, *self.options]


@dataclass(frozen=True)
class Outcome:
    """How a job ended; ``code`` is None if it had to be killed.

    ``seconds`` are those in which this process could run: a machine may stand still meanwhile.
    """

    code: int | None
    seconds: float
    out: str
    err: str

    @property
    def sentences(self) -> list[str]:
        """The errors that were reported."""
        return SENTENCE.findall(self.err)


def run_job(ranks: list[Rank], seconds: float, **env: str) -> Outcome:
    """Run one job under mpiexec; kill it after ``seconds``."""
    command = [str(mpiexec())]
    for i, rank in enumerate(ranks):
        command += [":"] * bool(i) + rank.command()
    return run_command(command, seconds, **env)


def run_command(command: list[str], seconds: float, **env: str) -> Outcome:
    """Run a command in a process group of its own; kill all of it after ``seconds``."""
    running = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    code: int | None = None
    with RunningTime() as clock:
        try:
            out, err = clock.communicate(running, seconds)
            code = running.returncode
        except subprocess.TimeoutExpired:
            _kill_descendants(running.pid)
            os.killpg(running.pid, signal.SIGKILL)
            out, err = running.communicate()
    return Outcome(code, clock.seconds, out, err)


def _kill_descendants(pid: int) -> None:
    """Kill the processes that a launcher started, which have groups of their own."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            _kill_descendants(int(child))
            os.kill(int(child), signal.SIGKILL)
