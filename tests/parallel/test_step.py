"""Training by any number of ranks gives the losses of one process."""

import numpy as np
import pytest

from tests.parallel.launch import needs_mpi, run_program
from tests.parallel.programs import losses

STEPS = 50


def _check(found, tolerance, optimizers):
    for optimizer in optimizers:
        expected = found.pop(f"one process/{optimizer}")
        assert len(expected) == STEPS
        ours = {k: v for k, v in found.items() if k.endswith(f"/{optimizer}")}
        assert len(ours) >= len(losses.plans(2))
        for name, values in ours.items():
            np.testing.assert_allclose(values, expected, rtol=tolerance, err_msg=name)


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_exact_arithmetic_gives_the_losses_of_one_process(ranks):
    _check(run_program(ranks, "losses", "float64", STEPS, "sgd"), 1e-12, ["sgd"])


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_kernels_give_the_losses_of_one_process(ranks):
    _check(run_program(ranks, "losses", "jit", STEPS, "sgd"), 1e-6, ["sgd"])
