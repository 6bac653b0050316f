"""Dropout, normalisation and wide terms do not depend on the number of ranks."""

import numpy as np
import pytest

import dlrmjit
from tests.parallel.launch import needs_mpi, run_program, run_ranks

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


TRAIN = [
    "-m",
    "dlrmjit.train",
    "--data-generation=synthetic",
    "--num-batches=4",
    "--mini-batch-size=32",
    "--arch-embedding-size=30-20-10",
    "--arch-sparse-feature-size=4",
    "--arch-mlp-bot=13-8-4",
    "--arch-mlp-top=8-4-1",
    "--dropout=0.3",
    "--batch-norm",
    "--wide",
    "--mlp-top-activation=silu",
    "--backend=reference",
    "--reproducible=4",
]


def test_the_command_trains_and_resumes_with_the_same_bits_on_any_number_of_ranks(tmp_path):
    for ranks in (1, 2):
        run_ranks(ranks, *TRAIN, f"--save-model={tmp_path / str(ranks)}", "--nepochs=2")
    first = tmp_path / "first"
    run_ranks(2, *TRAIN, f"--save-model={first}", "--nepochs=1")
    run_ranks(1, *TRAIN, f"--load-model={first}", f"--save-model={tmp_path / 'on'}", "--nepochs=2")
    expected = dlrmjit.load(tmp_path / "1").state_dict()
    for name in ("2", "on"):
        found = dlrmjit.load(tmp_path / name).state_dict()
        for key, value in expected.items():
            assert value.tobytes() == found[key].tobytes(), (name, key)
