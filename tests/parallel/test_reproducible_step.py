"""With virtual shards, bits do not depend on the number of ranks."""

import pytest

from tests.parallel.launch import needs_mpi, run_program
from tests.parallel.programs import losses


@needs_mpi
def test_losses_and_weights_are_the_same_bits_for_1_2_3_and_4_ranks():
    expected = run_program(1, "reproducible", 10)
    assert set(expected) == {f"{k}/{o}" for k in losses.plans(1) for o in losses.RATES}
    for ranks in (2, 3, 4):
        assert run_program(ranks, "reproducible", 10) == expected


@needs_mpi
def test_weights_in_halves_have_the_same_bits_for_1_2_and_3_ranks_and_any_plan():
    expected = run_program(1, "reproducible", 10, "reference", "bf16", "sgd")
    assert len({tuple(losses) for losses, _ in expected.values()}) == 1
    for ranks in (2, 3):
        assert run_program(ranks, "reproducible", 10, "reference", "bf16", "sgd") == expected


@needs_mpi
@pytest.mark.parametrize("ranks", [5])
def test_shards_that_cannot_be_dealt_are_refused(ranks):
    found = run_program(ranks, "reproducible", 1)
    assert found == "12 shares cannot be dealt evenly to 5 ranks"
