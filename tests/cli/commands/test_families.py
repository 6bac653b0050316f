"""``--model``: what it builds, which options it refuses, and the commands that read such models."""

import json

import numpy as np
import pytest

from dlrmjit.architecture.families import FAMILIES
from dlrmjit.cli.build.configs import model_config
from dlrmjit.cli.commands import evaluate, export_embeddings, predict, prepare, train
from dlrmjit.cli.options.parse import parse
from dlrmjit.errors import ConfigError
from dlrmjit.training.persistence import load
from tests.cli.commands.test_data_commands import write_text

SIZES = ("--arch-embedding-size=50-7-9", "--arch-mlp-bot=13")


def _config(*arguments, rows=(50, 7, 9), dense=None):
    return model_config(parse([*SIZES, *arguments]), rows, dense)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "dlrm"])
def test_a_family_is_built_from_the_options(name):
    bottom = ["--arch-mlp-bot=13-8-4"] if name in ("dcnv2", "dlrm-projection") else []
    bottom += [] if name == "lr" else ["--arch-sparse-feature-size=4"]
    config = _config(f"--model={name}", *bottom)
    assert (config.table_rows, config.dense_features) == ((50, 7, 9), 13)
    assert _config(f"--model={name}", *bottom, dense=5).dense_features == 5


def test_the_values_of_cross_layers_are_those_of_the_options():
    arguments = ("--model=dcnv2", "--arch-mlp-bot=13-2", "--dcn-num-layers=2")
    assert _config(*arguments, "--dcn-low-rank-dim=3").node("cross").rank == 3
    assert _config(*arguments).node("cross").layers == 2
    assert _config(*arguments).node("cross").rank == 0  # a low rank would cost more


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model=lr", "--arch-mlp-top=4-1"), "--arch-mlp-top has no effect on --model=lr"),
        (("--dcn-num-layers=2",), "--dcn-num-layers has no effect on --model=dlrm"),
        (("--model=fm", "--dropout=0.1"), "--dropout has no effect on --model=fm"),
        (("--model=deepfm", "--arch-interaction-op=cat"), "no effect on --model=deepfm"),
        (("--model=fm", "--arch-mlp-bot=13-4"), "the number of dense features alone, not 13-4"),
    ],
)
def test_an_option_that_a_family_does_not_have_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        _config(*arguments)


def test_a_model_is_trained_evaluated_applied_and_exported(tmp_path, capsys):
    text = write_text(tmp_path / "train.txt")
    data, model, log = tmp_path / "set", tmp_path / "model", tmp_path / "log.jsonl"
    assert prepare.main([str(text), "--out", str(data), "--workers=1"]) == 0
    arguments = ["--data-generation=dataset", f"--processed-data-file={data}", "--test-freq=5"]
    arguments += ["--model=deepfm", "--arch-mlp-top=8-1", "--mini-batch-size=64", "--nepochs=1"]
    arguments += ["--restore-best", "--monitor=logloss", f"--save-model={model}"]
    assert train.main([*arguments, f"--log-json={log}", "--debug-mode"]) == 0
    output = capsys.readouterr().out
    assert "fm (fm) of emb_l: (1,)" in output
    assert "The parameters are those of the best test" in output
    first = json.loads(log.read_text().splitlines()[0])
    assert first["config"]["model"]["nodes"][0]["kind"] == "embedding"
    again = [a for a in arguments if not a.startswith(("--save", "--nepochs", "--model", "--arch"))]
    again += [f"--resume={model}", "--nepochs=2"]
    assert train.main(again) == 0  # without the family, which the checkpoint has
    assert train.main([*again, "--model=deepfm", "--arch-mlp-top=8-1"]) == 0
    assert train.main([*again, "--model=nfm", "--arch-mlp-top=8-1"]) == 2
    assert "not a checkpoint of this model" in capsys.readouterr().err
    assert train.main([*again, "--arch-mlp-top=8-1"]) == 2
    assert evaluate.main([str(model), str(data)]) == 0
    scores = tmp_path / "scores.npy"
    assert predict.main([str(model), str(data), "--out", str(scores)]) == 0
    assert np.isfinite(np.load(scores)).all()
    assert export_embeddings.main([str(model), "--out", str(tmp_path / "tables")]) == 0
    found = load(model)
    tables = {spec.name: spec for spec in found.architecture.table_specs}
    exported = {path.name: path for path in (tmp_path / "tables").glob("*.npy")}
    assert np.load(exported["C1.npy"]).shape[1] == tables["emb_l.0.weight"].dim == 16
    assert np.load(exported["C1.wide.npy"]).shape == (tables["wide.0.weight"].rows, 1)
