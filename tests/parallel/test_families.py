"""Every family trains the same on any number of ranks, with every class of optimizer."""

import numpy as np
import pytest

from tests.parallel.launch import needs_mpi, run_program

pytestmark = needs_mpi


@pytest.fixture(scope="module")
def found():
    return {ranks: run_program(ranks, "families", 6) for ranks in (1, 2, 3)}


def test_losses_are_those_of_one_process(found):
    for ranks, cases in found.items():
        for name, case in cases.items():
            text = f"{name} on {ranks} ranks"
            np.testing.assert_allclose(case["ranks"], case["one"], rtol=1e-6, err_msg=text)
            np.testing.assert_allclose(case["reproducible"], case["one"], rtol=1e-6, err_msg=text)


def test_reproducible_steps_give_the_same_bits(found):
    for name, case in found[1].items():
        for ranks in (2, 3):
            other = found[ranks][name]
            assert other["reproducible"] == case["reproducible"], f"{name} on {ranks} ranks"
            assert other["bits"] == case["bits"], f"{name} on {ranks} ranks"
