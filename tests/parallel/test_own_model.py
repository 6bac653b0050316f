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
