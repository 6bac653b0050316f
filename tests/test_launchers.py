"""What started a process follows from the variables of its launcher, each with its own names."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

import dlrmjit
from dlrmjit import launchers
from dlrmjit.cli.commands import evaluate, train
from dlrmjit.errors import ConfigError
from tests.parallel.launch import needs_mpi, run_ranks

SIZED = [launcher for launcher in launchers.LAUNCHERS if launcher.name != "Slurm"]


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in (*launchers.VARIABLES, "SLURM_STEP_ID", "PMI_FD", "DLRMJIT_LAUNCHER"):
        monkeypatch.delenv(name, raising=False)


def _set(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def _run(*words, **variables):
    command = [sys.executable, *words]
    env = {**os.environ, **variables}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("launcher", SIZED, ids=lambda launcher: launcher.name)
def test_every_launcher_says_rank_and_size(monkeypatch, launcher):
    _set(monkeypatch, **{launcher.rank: "2", launcher.sizes[0]: "5"})
    launch = launchers.launched()
    assert (launch.launcher, launch.rank, launch.size) == (launcher.name, 2, 5)
    assert f"{launcher.rank}=2" in str(launch)


@pytest.mark.parametrize("launcher", launchers.LAUNCHERS, ids=lambda launcher: launcher.name)
def test_a_rank_without_a_size_says_nothing(monkeypatch, launcher):
    _set(monkeypatch, **{launcher.rank: "1"})
    assert launchers.launched() is None
    assert launchers.launched_rank() == 0


def test_a_launch_of_one_process_is_no_launch(monkeypatch):
    _set(monkeypatch, PMI_RANK="0", PMI_SIZE="1")
    assert launchers.launched() is None


def test_pmix_alone_has_no_size(monkeypatch):
    _set(monkeypatch, PMIX_RANK="1", PMIX_NAMESPACE="job.1")
    assert launchers.launched().size is None


@pytest.mark.parametrize(
    ("variables", "size"),
    [
        ({"SLURM_NTASKS": "4"}, None),  # a job's own shell
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_ID": str(0xFFFFFFFA)}, None),  # interactive
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_ID": str(0xFFFFFFFB)}, None),  # batch script
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_ID": "0"}, 4),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "0"}, None),
    ],
)
def test_only_a_step_of_slurm_is_a_launch(monkeypatch, variables, size):
    _set(monkeypatch, SLURM_PROCID="1" if size else "0", **variables)
    launch = launchers.launched()
    assert (launch.size if launch else None) == size


def test_the_launcher_of_mpi_comes_before_the_batch_system(monkeypatch):
    """Hydra starts its own helpers as a step of Slurm, one per host."""
    _set(monkeypatch, SLURM_PROCID="0", SLURM_STEP_NUM_TASKS="2", SLURM_STEP_ID="0")
    _set(monkeypatch, PMI_RANK="3", PMI_SIZE="8")
    assert launchers.launched().size == 8


def test_torchrun_is_no_launcher_of_mpi(monkeypatch):
    _set(monkeypatch, RANK="1", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    assert launchers.launched() is None


def test_a_program_can_say_that_it_is_no_rank(monkeypatch):
    _set(monkeypatch, PMI_RANK="1", PMI_SIZE="2", DLRMJIT_LAUNCHER="none")
    assert launchers.launched() is None
    _set(monkeypatch, DLRMJIT_LAUNCHER="nobody")
    with pytest.raises(ConfigError, match="must be none or unset, not 'nobody'"):
        launchers.launched()


def test_contradictions_are_refused(monkeypatch):
    _set(monkeypatch, PMI_RANK="2", PMI_SIZE="2")
    with pytest.raises(ConfigError, match=r"PMI_RANK=2, PMI_SIZE=2.*DLRMJIT_LAUNCHER=none"):
        launchers.launched()


def test_a_command_of_one_process_is_refused_on_several_ranks(monkeypatch, capsys):
    _set(monkeypatch, OMPI_COMM_WORLD_RANK="1", OMPI_COMM_WORLD_SIZE="2")
    assert evaluate.main(["model", "data"]) == 2
    error = capsys.readouterr().err
    assert "dlrmjit evaluate runs in one process, but Open MPI started several" in error
    assert "DLRMJIT_LAUNCHER=none" in error


def test_a_leftover_rank_silences_nothing(monkeypatch, capsys):
    _set(monkeypatch, PMI_RANK="1")
    assert train.main(["--no-such-option"]) == 2
    assert "unknown option" in capsys.readouterr().err


@needs_mpi
def test_ranks_of_a_foreign_launcher_are_refused_instead_of_training_copies():
    """Each of them prints, because no two of them can find each other."""
    options = ("-m", "dlrmjit.train", "--mini-batch-size=2", "--data-size=6")
    launch = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}
    done = _run(*options, **launch)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "rank 2 of 3" in done.stderr
    assert "sees one process: use the mpiexec of that MPI" in done.stderr
    assert _run(*options, **launch, DLRMJIT_LAUNCHER="none").returncode == 0
    done = _run("-m", "dlrmjit.train", "--no-such-option", **launch)
    assert (done.returncode, done.stderr.count("unknown option")) == (2, 1)


CHILD = """
import os, subprocess, sys
def run(**env):
    return subprocess.run([sys.executable, "-m", "dlrmjit.train", "--mini-batch-size=2",
        "--data-size=6"], env={**os.environ, **env}, capture_output=True, text=True)
refused, trained = run(), run(DLRMJIT_LAUNCHER="none")
assert refused.returncode == 2, refused
assert "a program that a rank starts is no rank itself" in refused.stderr, refused
assert "DLRMJIT_LAUNCHER=none" in refused.stderr, refused
assert trained.returncode == 0, trained
assert "Trained 3 steps" in trained.stdout, trained
"""


@needs_mpi
def test_a_program_that_a_rank_starts_is_told_how_to_say_that_it_is_none():
    run_ranks(2, "-c", CHILD)


def _fit():
    config = dlrmjit.ModelConfig((5,), 2, (1, 2), (4, 1))
    model = dlrmjit.DLRM(config, backend="reference")
    ones = np.ones((2, 1), np.float32)
    batch = dlrmjit.Batch(ones, np.array([0, 1]), np.array([[0, 1, 2]]), ones[:, 0])

    class Source:
        table_rows, dense_features, num_batches, num_samples = (5,), 1, 1, 2

        def batches(self, epoch=0, start=0):
            return iter([batch][start:])

    return dlrmjit.fit(model, Source())


def test_fit_says_that_every_rank_trains_a_copy(monkeypatch):
    _set(monkeypatch, PMI_RANK="0", PMI_SIZE="2")
    with pytest.warns(UserWarning, match="2 ranks, but this model has no communicator"):
        _fit()
    _set(monkeypatch, PMI_RANK="1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _fit()  # the first rank has said so for all


def test_ranks_give_lower_ones_more_time_on_a_busy_host(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for load, second in ((0.1, 0.4), (2.0, 0.4), (6.0, 1.2), (99.0, 4.0)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, load, load))
        assert launchers.seconds_after_lower_ranks(0) == 0
        assert launchers.seconds_after_lower_ranks(1) == pytest.approx(second)
        assert launchers.seconds_after_lower_ranks(100) == 4.0
