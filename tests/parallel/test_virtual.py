"""With virtual shards, bits do not depend on the number of ranks."""

import pytest

from tests.parallel.launch import needs_mpi, run_program


@needs_mpi
def test_losses_and_weights_are_the_same_bits_for_1_2_3_and_4_ranks():
    expected = run_program(1, "reproducible", 10)
    assert set(expected) == {"whole", "columns", "rows", "replicated", "mixed"}
    for ranks in (2, 3, 4):
        assert run_program(ranks, "reproducible", 10) == expected


@needs_mpi
def test_weights_in_halves_have_the_same_bits_for_1_2_and_3_ranks_and_any_plan():
    expected = run_program(1, "reproducible", 10, "reference", "bf16")
    assert len({tuple(losses) for losses, _ in expected.values()}) == 1
    for ranks in (2, 3):
        assert run_program(ranks, "reproducible", 10, "reference", "bf16") == expected


@needs_mpi
@pytest.mark.parametrize("ranks", [5])
def test_shards_that_cannot_be_dealt_are_refused(ranks):
    found = run_program(ranks, "reproducible", 1)
    assert found == "12 shares cannot be dealt evenly to 5 ranks"
