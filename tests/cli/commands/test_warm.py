"""``dlrmjit warm`` compiles the kernels of the training that the same options start."""

import pytest

from dlrmjit import warm as room
from dlrmjit.cli.commands import train_run, warm
from dlrmjit.cli.commands.train import main as train
from tests.cli.commands.test_train_set import make_set

GENERATED = ("--arch-mlp-bot=3-4-2", "--arch-mlp-top=4-1", "--arch-embedding-size=5-6")
GENERATED += ("--arch-sparse-feature-size=2", "--mini-batch-size=20", "--num-batches=1")


@pytest.fixture
def asked(monkeypatch):
    """Return the rehearsals of trainings and of ``warm``; nothing is compiled for them."""
    found = []
    monkeypatch.setattr(train_run, "compile_ahead", found.append)
    monkeypatch.setattr(room, "compile_all", lambda rehearsal: found.append(rehearsal) or 0)
    return found


def test_a_run_on_generated_data_is_rehearsed(asked, capsys):
    words = (*GENERATED, "--optimizer=adagrad", "--precision=bf16")
    assert warm.main(words) == 0
    assert "kernels are compiled in" in capsys.readouterr().out
    assert train(words) == 0
    assert asked[0] == asked[1]
    assert asked[0].samples == 20


def test_a_run_on_a_set_is_rehearsed_with_its_defaults(asked, tmp_path):
    prepared = str(make_set(tmp_path, rows=200))
    assert warm.main([prepared]) == 0
    assert train([prepared, "--nepochs=1"]) == 0
    assert asked[0] == asked[1]


def test_the_backend_without_kernels_is_refused(capsys):
    assert warm.main(["--backend=reference"]) == 2
    assert "only the backend jit compiles kernels" in capsys.readouterr().err
