"""Dropout, normalisation and wide terms do not depend on the number of ranks."""

import numpy as np
import pytest

from tests.parallel.launch import needs_mpi, run_program

pytestmark = needs_mpi


@pytest.fixture(scope="module")
def found():
    return {ranks: run_program(ranks, "regularised", 6) for ranks in (1, 2, 3)}


def test_losses_and_averages_are_those_of_one_process(found):
    for ranks, cases in found.items():
        for name, case in cases.items():
            text = f"{name} on {ranks} ranks"
            # the normalisation of a few samples amplifies rounding
            rtol = 2e-5 if case["means"][0] else 1e-6
            np.testing.assert_allclose(case["ranks"], case["one"], rtol=rtol, err_msg=text)
            np.testing.assert_allclose(case["reproducible"], case["one"], rtol=rtol, err_msg=text)
            np.testing.assert_allclose(case["exact ranks"], case["exact one"], rtol=1e-9)
            for ours, one in zip(*case["means"], strict=True):
                np.testing.assert_allclose(ours, one, rtol=1e-4, atol=1e-6, err_msg=text)


def test_reproducible_steps_give_the_same_bits(found):
    for name, case in found[1].items():
        for ranks in (2, 3):
            other = found[ranks][name]
            assert other["reproducible"] == case["reproducible"], f"{name} on {ranks} ranks"
            assert other["bits"] == case["bits"], f"{name} on {ranks} ranks"
