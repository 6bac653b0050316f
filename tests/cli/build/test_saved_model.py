"""The architecture of a run that starts from a saved model is that model's."""

import re

import pytest

import dlrmjit
from dlrmjit.checkpoint import write_torch_file
from dlrmjit.cli.commands.evaluate import main as evaluate
from dlrmjit.cli.commands.export_embeddings import main as export
from dlrmjit.cli.commands.train import main as train
from dlrmjit.errors import CheckpointError
from dlrmjit.training.step import TrainingStep

DATA = ["--mini-batch-size=4", "--data-size=12", "--loss-function=bce", "--round-targets=True"]
OTHER = ["--arch-mlp-bot=4-5-3", "--arch-sparse-feature-size=3", "--arch-embedding-size=5-6"]


@pytest.fixture
def saved(tmp_path, capsys):
    """Save a model of another architecture than the default, as a directory and as a file."""
    for name in ("m", "m.pt"):
        words = [*DATA, *OTHER, "--arch-interaction-itself", f"--save-model={tmp_path / name}"]
        assert train(words) == 0
    capsys.readouterr()
    return tmp_path


@pytest.mark.parametrize("name", ["m", "m.pt"])
def test_flags_that_are_not_given_come_from_the_checkpoint(saved, name):
    more = ["--nepochs=2", f"--load-model={saved / name}", f"--save-model={saved / 'n'}"]
    assert train([*DATA, *more]) == 0
    assert dlrmjit.load(saved / "n").config == dlrmjit.load(saved / name).config
    assert train([*DATA, *OTHER, f"--load-model={saved / name}"]) == 0


@pytest.mark.parametrize("name", ["m", "m.pt"])
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--arch-mlp-bot=4-3", "--arch-mlp-bot=4-3 contradicts the model in .* has 4-5-3"),
        ("--arch-embedding-size=5-7", "--arch-embedding-size=5-7 contradicts .* has 5-6"),
        ("--arch-mlp-top=9-1", "--arch-mlp-top=9-1 contradicts"),
        ("--arch-interaction-op=cat", "the interaction cat is asked for, but the model has dot"),
        ("--batch-norm", "--batch-norm contradicts the model in .* has False"),
        ("--dropout=0.5", "dropout is 0.0 in the checkpoint, but 0.5 is asked for"),
        ("--config=small", "the interaction dot is asked for, but the model has dot with itself"),
    ],
)
def test_flags_that_contradict_the_checkpoint_are_refused(saved, capsys, name, flag, message):
    assert train([*DATA, f"--load-model={saved / name}", flag]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.fixture
def ambiguous(tmp_path, capsys):
    """Write the reference's default model as the reference does, without its configuration."""
    model = dlrmjit.DLRM(dlrmjit.ModelConfig((4, 3, 2), 2, (4, 3, 2), (4, 2, 1)))
    write_torch_file(tmp_path / "m.pt", model.stored(), {})
    return tmp_path / "m.pt"


def test_a_command_says_what_it_assumes_of_a_file_that_allows_two_interactions(ambiguous, capsys):
    test = [*DATA, "--inference-only", f"--load-model={ambiguous}"]
    results = {}
    for flag in ("", "--arch-interaction-op=dot", "--arch-interaction-op=cat"):
        assert train([*test, *filter(None, [flag])]) == 0
        output = capsys.readouterr()
        assert ("allow dot and cat: dot is assumed" in output.err) == (not flag)
        results[flag] = [line for line in output.out.splitlines() if "log loss" in line]
    assert results[""] == results["--arch-interaction-op=dot"]
    assert results[""] != results["--arch-interaction-op=cat"]


def test_the_other_commands_take_the_flags_too(ambiguous, capsys):
    out = ambiguous.parent / "out"
    assert export([str(ambiguous), f"--out={out}", "--arch-interaction-op=cat"]) == 0
    assert "assumed" not in capsys.readouterr().err
    assert evaluate([str(ambiguous), "absent.csv", "--arch-interaction-op=none"]) == 2


def test_the_library_refuses_to_compute_with_such_a_file(ambiguous):
    model = dlrmjit.load(ambiguous)
    assert model.state_dict()["emb_l.0.weight"].shape == (4, 2)
    acts = (
        lambda: dlrmjit.save(model, ambiguous.parent / "x"),
        lambda: TrainingStep(model).graph(3),
    )
    for act in acts:
        with pytest.raises(CheckpointError, match="does not say how features interact"):
            act()
    assert dlrmjit.load(ambiguous, interaction="cat").config.interaction == "cat"
    with pytest.raises(CheckpointError, match="the interaction dot with itself is asked for"):
        dlrmjit.load(ambiguous, interaction_itself=True)
