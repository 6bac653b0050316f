"""A user-defined model, the two towers of docs/models.md, on ranks that are killed."""

import os

import pytest

from dlrmjit.checkpoint import open_checkpoint
from docs.layers import ROOT
from tests.docs.snippets import snippets
from tests.parallel.launch import PROGRAMS, environment, needs_mpi, run_ranks

KILLED_AT = 14  # of 20 steps, in the second epoch; two steps after a save


@pytest.fixture
def train(tmp_path):
    """A function that trains on 2 ranks and returns the exit code."""
    page = snippets(ROOT / "docs" / "models.md")
    text = next(block.text for block in page if block.name == "two_tower.py")
    (tmp_path / "two_tower.py").write_text(text)
    path = os.pathsep.join([environment()["PYTHONPATH"], str(tmp_path)])

    def run(kind, name, *kill_at):
        program = (PROGRAMS / "two_tower_run.py", kind, tmp_path / name, *kill_at)
        return run_ranks(2, *program, check=not kill_at, PYTHONPATH=path).returncode

    return run


def _saved(path):
    checkpoint = open_checkpoint(path)
    arrays = {**dict(checkpoint.state), **dict(checkpoint.optimizer)}
    return {name: array.tobytes() for name, array in arrays.items()}


@needs_mpi
@pytest.mark.parametrize("kind", ["sharded", "reproducible"])
def test_two_killed_ranks_are_resumed_with_the_same_bits(kind, train, tmp_path):
    assert train(kind, "killed", KILLED_AT) != 0
    assert open_checkpoint(tmp_path / "killed").progress["step"] == 12
    train(kind, "killed")
    train(kind, "whole")
    assert open_checkpoint(tmp_path / "killed").progress["step"] == 20
    assert _saved(tmp_path / "killed") == _saved(tmp_path / "whole")


FIT = "dlrmjit.fit(model, source, "
ON_EACH_RANK = {
    "alike": (FIT, FIT, ""),
    "rates": (
        FIT,
        f"{FIT}dlrmjit.TrainConfig(learning_rate=0.1 + comm.rank), ",
        "learning_rate of",
    ),
    "epochs": (
        FIT,
        f"{FIT}dlrmjit.TrainConfig(epochs=1 + comm.rank), ",
        "epochs of the training is 2",
    ),
    "batches": ("num_batches=20", "num_batches=20 - comm.rank", "the number of training batches"),
    "optimizers": ('"sgd"', '("sgd", "adagrad")[comm.rank]', "the optimizer of the step"),
    "values": (
        "comm.size))",
        "comm.size), rng=__import__('numpy').random.RandomState(comm.rank))",
        "the digest of the initial parameters",
    ),
    "models": ('preset("demo")', 'preset(("demo", "small")[comm.rank])', "the model's"),
    "no step": ('step=ShardedStep(model, "sgd"), ', "", "give fit step=ShardedStep"),
    "no measure": (", measure=evaluate", "", "measure=evaluate of dlrmjit.parallel.metrics"),
    "a step of one process": ("ShardedStep(model", "dlrmjit.TrainingStep(model", "ShardedStep of"),
    "a test of one process": (FIT, f"dlrmjit.evaluate(model, source)\n{FIT}", "metrics tests it"),
}


@needs_mpi
@pytest.mark.parametrize("how", ON_EACH_RANK)
def test_a_program_of_ranks_trains_alike_or_is_refused(how):
    page = snippets(ROOT / "docs" / "parallel.md")
    text = next(block.text for block in page if "fail_together" in block.text)
    old, new, says = ON_EACH_RANK[how]
    assert old in text
    program = text.replace(old, new)
    done = run_ranks(2, "-c", program, check=False, timeout=120, DLRMJIT_BACKEND="reference")
    assert says in done.stderr, done.stderr
    assert (done.returncode == 0) == (not says)
    assert "waited" not in done.stderr
