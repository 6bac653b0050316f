"""One rank that fails ends the job at once, with its reason, and harms no checkpoint."""

import pytest

from dlrmjit import persistence
from tests.parallel.launch import PROGRAMS, needs_mpi, run_ranks

SMALL = (
    "--data-generation=synthetic",
    "--mini-batch-size=32",
    "--arch-sparse-feature-size=4",
    "--arch-embedding-size=50-7-9",
    "--arch-mlp-bot=13-4",
    "--arch-mlp-top=8-1",
    "--backend=reference",
)

ENDED = 30  # seconds in which a job starts on a busy machine, fails and is gone


def _train(ranks, *words):
    return run_ranks(ranks, "-m", "dlrmjit.train", *SMALL, *words)


def _fail(fault, rank, *words):
    program = PROGRAMS / "failing.py"
    done = run_ranks(3, program, fault, rank, *SMALL, *words, check=False, timeout=ENDED)
    assert done.returncode != 0
    return done


@needs_mpi
@pytest.mark.parametrize("rank", [0, 2])
def test_a_reader_that_raises_ends_all_with_one_message(rank):
    done = _fail("loader", rank, "--num-batches=1000")
    reason = f"dlrmjit: error: rank {rank}: day_3, line 17: 'x' is no number"
    assert done.stderr.count("dlrmjit: error") == 1
    assert reason in done.stderr


@needs_mpi
def test_a_killed_rank_ends_all():
    _fail("killed", 1, "--num-batches=100000")


@needs_mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, rank):
    kept = tmp_path / "model"
    _train(2, "--num-batches=5", f"--save-model={kept}")
    before = persistence.load(kept).state_dict()
    done = _fail("disk", rank, "--plan=whole", "--num-batches=6", f"--save-model={kept}")
    assert f"rank {rank}: {kept}: the checkpoint cannot be written" in done.stderr
    assert done.stderr.count("dlrmjit: error") == 1
    for name, value in persistence.load(kept).state_dict().items():
        assert (value == before[name]).all()


@needs_mpi
def test_mistakes_are_told_once():
    done = run_ranks(3, "-m", "dlrmjit.train", "--bogus", check=False)
    assert done.returncode == 2
    assert done.stderr.count("unknown option '--bogus'") == 1
    done = run_ranks(2, "-m", "dlrmjit.train", *SMALL, "--reproducible=3", check=False)
    assert done.returncode != 0
    assert done.stderr.count("must be a multiple of the number of ranks, 2") == 1
