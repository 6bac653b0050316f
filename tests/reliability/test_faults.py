"""A rank that fails in the middle of a run ends all others: a sample of all faults."""

import pytest

from tests.parallel.launch import needs_mpi
from tests.reliability.faults import ALL

SLACK = 4  # factor of the time limits, on a busy machine
SAMPLE = [
    ("killed", "save", 1),
    ("stopped", "step", 2),
    ("sleeping", "test", 0),
    ("stopped", "MPI_Finalize", 1),
    ("sys.exit", "step", 1),
]


def test_there_are_at_least_200_faults():
    assert len(set(ALL)) >= 200


@needs_mpi
@pytest.mark.parametrize(("fault", "moment", "rank"), SAMPLE)
def test_a_fault_ends_all_ranks(fault, moment, rank, tmp_path):
    chosen = next(f for f in ALL if (f.fault, f.moment, f.rank) == (fault, moment, rank))
    outcome = chosen.run(tmp_path, chosen.limit * SLACK)
    assert chosen.faults(outcome, chosen.limit * SLACK) == []
