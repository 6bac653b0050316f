"""Every family trains the same on any number of ranks, with every optimizer."""

import numpy as np
import pytest

from dlrmjit.architecture.families import FAMILIES
from dlrmjit.config.optimizer import OPTIMIZERS
from tests.parallel.launch import needs_mpi, run_program
from tests.parallel.programs.families import UPDATES

pytestmark = needs_mpi


@pytest.fixture(scope="module")
def found():
    return {ranks: run_program(ranks, "families", 3) for ranks in (1, 2, 3)}


def test_every_family_is_trained_with_every_optimizer(found):
    for cases in found.values():
        assert set(cases) == {f"{name}/{label}" for name in FAMILIES for label in UPDATES}
    assert {type(update.mlps) for update, _ in UPDATES.values()} == set(OPTIMIZERS.values())


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
