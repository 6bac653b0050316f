"""Odd ways to start a training change nothing: the losses are those of a plain start."""

import os
import shutil
import subprocess
import sys

import pytest

WORDS = ["-m", "dlrmjit.train", "--mini-batch-size=2", "--data-size=6"]


def losses(command, **environment):
    run = subprocess.run(
        command,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert run.returncode == 0, run.stderr
    return [line.split("loss ")[1] for line in run.stdout.splitlines() if "Finished" in line]


@pytest.fixture(scope="module")
def plain():
    found = losses([sys.executable, *WORDS])
    assert found
    return found


@pytest.mark.parametrize("flag", ["-OO", "-bb", "-Werror", "-Xdev"])
def test_flags_of_the_interpreter_change_no_loss(plain, flag):
    assert losses([sys.executable, flag, *WORDS]) == plain


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        {"NUMBA_THREADING_LAYER": "workqueue"},
        {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "1"},
    ],
    ids=lambda environment: next(iter(environment)),
)
def test_variables_of_other_programs_change_no_loss(plain, environment):
    assert losses([sys.executable, *WORDS], **environment) == plain


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("script", ['ulimit -v 2000000; exec "$@"', 'exec "$@" <&-'])
def test_limits_of_a_shell_change_no_loss(plain, script):
    assert losses(["bash", "-c", script, "-", sys.executable, *WORDS]) == plain
