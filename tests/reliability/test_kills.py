"""Commands that are killed and started again: a sample of ``python -m tests.reliability.kills``."""

import subprocess
import sys

import pytest

from tests.parallel.launch import ROOT, environment, needs_mpi
from tests.reliability.kill_scenarios import JOBS, SCENARIOS
from tests.reliability.kills import Kill


def run(*options):
    command = [sys.executable, "-m", "tests.reliability.kills", *options]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)


def test_killed_commands_are_resumed_with_the_same_bits_and_leave_nothing():
    done = run("--kills=12", "--ranks=0", "--seed=20")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_mpi
@pytest.mark.parametrize("name", ["2 ranks", "3 ranks, rows, bf16, tests"])
def test_killed_ranks_are_resumed_with_the_same_bits_and_leave_nothing(name):
    number = next(n for n in range(1000) if Kill.number(5, n, 1.0).scenario.name == name)
    done = run("--kills=1", "--ranks=1", "--seed=5", f"--first={number}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_scenario_is_among_500_kills():
    kills = [Kill.number(0, number, 0.2) for number in range(500)]
    assert {kill.scenario for kill in kills} == {*SCENARIOS, *JOBS}
