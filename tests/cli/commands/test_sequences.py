"""``train --sequence``: a column by name or number, saved and scored again, refusals."""

import re
from pathlib import Path

import pytest

import dlrmjit
from dlrmjit.cli.commands import predict, prepare, train
from dlrmjit.data.generate.clicks import click_sequences

SCHEMA = """
label = "clicked"
categorical = [{ name = "history", separator = "|" }, "item"]
"""
TRAINING = (
    *("--arch-sparse-feature-size=4", "--arch-mlp-top=8-1", "--backend=reference"),
    *("--mini-batch-size=32", "--sequence-length=3", "--sequence-filters=2"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 200 rows."""
    folder = tmp_path_factory.mktemp("clicks")
    click_sequences(200, items=30).to_csv(folder / "clicks.csv")
    (folder / "clicks.toml").write_text(SCHEMA)
    asked = [str(folder / "clicks.csv"), "--schema", str(folder / "clicks.toml"), "--out"]
    assert (
        prepare.main([*asked, str(folder / "set"), "--split=fraction", "--test-fraction=0.2"]) == 0
    )
    return folder


@pytest.mark.parametrize("column", ["history", "0"])
def test_a_column_is_named_or_numbered(home, column):
    save = home / f"by_{column}"
    words = [str(home / "set"), *TRAINING, f"--sequence={column}", f"--save-model={save}"]
    assert train.main(words) == 0
    model = dlrmjit.load(save)
    clicked = model.architecture.node("clicked")
    assert (clicked.columns, clicked.positions) == ((0,), 3)
    scores = home / f"{column}.csv"
    assert predict.main([str(save), str(home / "clicks.csv"), "--out", str(scores)]) == 0
    assert len(scores.read_text().splitlines()) > 200
    resumed = [str(home / "set"), *TRAINING, f"--load-model={save}", f"--sequence={column}"]
    assert train.main(resumed) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sequence=histroy"], "no categorical column 'histroy'.*'history', 'item'"),
        (["--sequence=2"], "no categorical column '2'"),
        (["--sequence=history", "--model=fm"], "joins no vectors"),
        (["--sequence=history", "--sequence-length=0"], "--sequence-length"),
        (["--sequence=history", "--precision=bf16"], "fp32"),
    ],
)
def test_what_has_no_sequence_is_refused(home, words, message, capsys):
    kept = [w for w in TRAINING if not any(w.split("=")[0] == g.split("=")[0] for g in words)]
    if "--model=fm" in words:
        kept = [w for w in kept if "mlp" not in w]
    assert train.main([str(home / "set"), *kept, *words]) != 0
    assert re.search(message, capsys.readouterr().err)


def test_its_options_alone_are_refused(home, capsys):
    words = [str(home / "set"), "--sequence-length=3", "--backend=reference"]
    assert train.main(words) != 0
    assert "--sequence" in capsys.readouterr().err
