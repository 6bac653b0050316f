"""With --reproducible, bits do not depend on the number of ranks."""

from tests.parallel.launch import needs_mpi, run_program
from tests.parallel.programs import losses


@needs_mpi
def test_losses_and_weights_are_the_same_bits_for_1_2_3_and_4_ranks():
    expected = run_program(1, "reproducible", 10)
    assert set(expected) == {f"{k}/{o}" for k in losses.plans(1) for o in losses.RATES}
    for ranks in (2, 3, 4):
        assert run_program(ranks, "reproducible", 10) == expected


@needs_mpi
def test_bf16_weights_have_the_same_bits_for_1_2_and_3_ranks_and_any_plan():
    expected = run_program(1, "reproducible", 10, "reference", "bf16", "sgd")
    assert len({tuple(losses) for losses, _ in expected.values()}) == 1
    for ranks in (2, 3):
        assert run_program(ranks, "reproducible", 10, "reference", "bf16", "sgd") == expected


@needs_mpi
def test_micro_batches_that_the_ranks_do_not_divide_are_refused():
    found = run_program(5, "reproducible", 1)
    assert found.startswith("a plan for 12 ranks cannot be folded onto 5")
