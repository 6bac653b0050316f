"""Image towers on 1, 2 and 3 ranks: losses of one process, and the same bits if reproducible."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.parallel.launch import needs_mpi, run_ranks

pytestmark = needs_mpi


@pytest.fixture(scope="module")
def found():
    """Results by the number of ranks."""
    runs = {ranks: run_ranks(ranks, Path(__file__).parent / "towers.py", 3) for ranks in (1, 2, 3)}
    return {ranks: json.loads(run.stdout) for ranks, run in runs.items()}


@pytest.mark.parametrize("name", ["convolutions", "resnet"])
def test_losses_are_those_of_one_process(found, name):
    for ranks in (1, 2, 3):
        case = found[ranks][name]
        for kind in ("ranks", "reproducible"):
            np.testing.assert_allclose(case[kind], case["one"], rtol=5e-6, err_msg=f"{ranks}")


@pytest.mark.parametrize("name", ["convolutions", "resnet"])
def test_reproducible_steps_give_the_same_bits(found, name):
    for ranks in (2, 3):
        assert found[ranks][name]["reproducible"] == found[1][name]["reproducible"]
        assert found[ranks][name]["bits"] == found[1][name]["bits"]
