"""Ranks that start differently end together, in one sentence: a sample of each kind."""

import pytest

from tests.parallel.launch import needs_mpi
from tests.reliability.mismatches import MISMATCHES

SLACK = 4  # factor of the time limits, on a busy machine
SAMPLE = (
    "--learning-rate=0.2",
    "--num-batches=7",
    "--comm=thread",
    "--tensorboard={}/board",
    "DLRM_ALLTOALL_IMPL=scatter",
    "another code",
    "another text",
    "another plan in a file",
    "a mistyped option",
    "a mistyped option everywhere",
    "help on one rank",
    "no mpi4py",
    "a rank that ends at once",
    "a rank killed before MPI",
)
BY_NAME = {mismatch.name: mismatch for mismatch in MISMATCHES}


def test_there_are_at_least_60_kinds():
    assert len(BY_NAME) == len(MISMATCHES) >= 60


@needs_mpi
@pytest.mark.parametrize("name", SAMPLE)
def test_a_rank_that_starts_differently_ends_all_in_one_sentence(name, tmp_path):
    limit = BY_NAME[name].limit * SLACK
    outcome = BY_NAME[name].run(tmp_path, limit)
    assert BY_NAME[name].faults(outcome, limit) == []
