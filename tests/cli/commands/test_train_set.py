"""``train SET``: a prepared set alone is enough, and is never left unused without a word."""

import json
import os
import re
import signal

import numpy as np
import pytest

from dlrmjit.cli.commands import prepare
from dlrmjit.cli.commands.train import main
from dlrmjit.cli.exit_codes import SIGNALLED
from dlrmjit.cli.options.parse import parse
from dlrmjit.cli.report.set_lines import SetLines
from dlrmjit.errors import ConfigError
from dlrmjit.training.persistence import load
from tests.parallel.launch import needs_mpi, run_ranks

SCHEMA = """label = "clicked"
dense = [{ name = "age", transform = "standardise" }]
categorical = ["user", "film"]
"""


def make_set(folder, *split, rows=2000):
    rng = np.random.default_rng(0)
    user, film, age = rng.integers(0, 20, rows), rng.integers(0, 9, rows), rng.normal(size=rows)
    logit = rng.normal(size=20)[user] + rng.normal(size=9)[film] + age
    clicked = rng.random(rows) < 1 / (1 + np.exp(-logit))
    lines = ["age,user,film,clicked"]
    lines += [
        f"{a:.3f},u{u},f{f},{c:d}" for a, u, f, c in zip(age, user, film, clicked, strict=True)
    ]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    (folder / "log.json").write_text(
        json.dumps(
            {
                "label": "clicked",
                "dense": [{"name": "age", "transform": "standardise"}],
                "categorical": ["user", "film"],
            }
        )
    )
    words = [folder / "log.csv", "--schema", folder / "log.json", "--out", folder / "set", *split]
    assert prepare.main([str(word) for word in words]) == 0
    return str(folder / "set")


THREE = ("--split", "fraction", "--test-fraction=0.2", "--validation-fraction=0.1")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("data"), *THREE)


def test_a_set_alone_trains_a_model_that_beats_both_baselines(prepared, tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    assert main([prepared, "--baseline=logistic", f"--log-json={log}"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].startswith(f"{prepared}: 1,400 training rows, 200 for validation, 400 for the")
    tests = [line for line in lines if line.startswith("epoch ")]
    assert tests
    assert all("validation AUC 0." in line and "log loss 0." in line for line in tests)
    assert "On 400 test rows: AUC 0.8" in out
    assert "Baseline, the share of clicks 0." in out
    assert "% lower" in out
    assert "Baseline, logistic regression on the same rows: AUC 0.8" in out
    assert not {"ms/it", "roofline", "Using CPU", "nan"} & set(out.replace(",", " ").split())
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["event"] for event in events[-2:]] == ["eval", "end"]
    assert events[-2]["split"] == "test"
    assert events[-2]["samples"] == 400


def test_without_validation_rows_the_last_training_rows_choose(tmp_path, capsys):
    path = make_set(tmp_path, "--split", "fraction", "--test-fraction=0.2")
    assert main([path, "--nepochs=1"]) == 0
    out = capsys.readouterr().out
    assert "1,440 training rows, 160 for validation, 400 for the test" in out


def test_a_set_without_other_splits_reports_on_validation_rows(tmp_path, capsys):
    path = make_set(tmp_path, "--split", "none")
    assert main([path, "--nepochs=1"]) == 0
    assert "On 200 validation rows: AUC" in capsys.readouterr().out


def test_options_that_are_given_hold_and_the_others_follow_from_the_set(prepared, capsys):
    words = ["--model=dlrm", "--optimizer=adagrad", "--mini-batch-size=100", "--nepochs=2"]
    assert main([prepared, *words, "--arch-sparse-feature-size=4"]) == 0
    out = capsys.readouterr().out
    assert "Model dlrm: tables of width 4, adagrad at 0.02, decaying to 0, batches of 100" in out
    assert "epoch 2/2" in out


def test_a_run_on_a_set_is_resumed_and_its_model_used(prepared, tmp_path, capsys):
    words = [prepared, "--nepochs=2", f"--resume={tmp_path / 'm'}", "--backend=reference"]
    assert main(words) == 0
    assert main([prepared, f"--load-model={tmp_path / 'm'}", "--inference-only"]) == 0
    assert "Test on 400 samples: AUC 0.8" in capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["--table-learning-rate=user=0,film=0.01"]], ids=repr)
def test_a_run_from_a_solution_that_was_terminated_is_resumed_with_the_same_bits(
    prepared, tmp_path, monkeypatch, capsys, more
):
    words = [prepared, "--nepochs=3", *more]
    assert main([*words, f"--save-model={tmp_path / 'whole'}"]) == 0
    assert "from a factorisation machine" in capsys.readouterr().out
    with monkeypatch.context() as patched:
        patched.setattr(SetLines, "on_test", _terminate_after(60))
        code = main([*words, f"--resume={tmp_path / 'm'}"])
    assert code == SIGNALLED + signal.SIGTERM
    assert main([*words, f"--resume={tmp_path / 'm'}"]) == 0
    whole, resumed = (load(tmp_path / name).state_dict() for name in ("whole", "m"))
    assert {name: value.tobytes() for name, value in resumed.items()} == {
        name: value.tobytes() for name, value in whole.items()
    }


def _terminate_after(steps):
    def on_test(self, record):
        if record.step >= steps:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_test


def test_tables_of_single_columns_have_rates_of_their_own(prepared, tmp_path):
    found = []
    for rates in ("user=0,film=0.01", "0=0,1=0.01", "user=0"):
        path = tmp_path / rates
        words = ["--nepochs=1", f"--table-learning-rate={rates}", "--backend=reference"]
        assert main([prepared, *words, f"--save-model={path}"]) == 0
        found.append(load(path))
    states = [model.state_dict() for model in found]
    users = {spec.name for spec in found[0].architecture.table_specs if spec.column == 0}
    assert len(users) == 2
    for name, value in states[0].items():
        assert value.tobytes() == states[1][name].tobytes(), name
        assert (value.tobytes() == states[2][name].tobytes()) == (name in users), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--table-learning-rate=films=1"], "'films'.*they are 'user', 'film'"),
        (["--table-learning-rate=2=1"], "no categorical column '2'"),
        (["--table-learning-rate=film=1,1=2"], "column '1' has two learning rates"),
        (["--table-learning-rate=film=1,film=2"], "a column has two rates"),
        (["--table-learning-rate=film"], "expected columns with rates"),
        (["--table-learning-rate=film=-1"], "expected columns with rates"),
        (["--table-learning-rate=film=nan"], "expected columns with rates"),
        (["--table-learning-rate="], "expected columns with rates"),
        (["--table-learning-rate=film=1", "--learning-rate=0"], "must not be 0"),
    ],
)
def test_rates_of_columns_that_are_not_there_are_refused(prepared, words, message, capsys):
    assert main([prepared, *words]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert re.search(message, err)


def test_a_processed_set_is_used_also_without_the_kind_of_data(prepared):
    options = parse([f"--processed-data-file={prepared}", "--mini-batch-size=64"])
    assert options.data_generation == "dataset"


@pytest.mark.parametrize(
    "words",
    [
        ["{set}", "--data-generation=random"],
        ["--processed-data-file={set}", "--data-generation=synthetic"],
        ["{set}", "--processed-data-file=other"],
        ["{set}", "--raw-data-file=train.txt"],
        ["{set}", "--mlperf-bin-loader"],
        ["--baseline=logistic"],
        ["--processed-data-file={set}", "--baseline=logistic"],
        ["{set}", "{set}"],
    ],
)
def test_a_set_next_to_other_data_is_refused(prepared, words):
    with pytest.raises(ConfigError):
        parse([word.format(set=prepared) for word in words])


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("mini-batch-size=2", "did you mean --mini-batch-size?"),
        ("no-set", "nor is there a prepared"),
    ],
)
def test_a_word_that_is_neither_option_nor_set_is_refused(word, hint, capsys):
    assert main([word]) == 2
    assert hint in capsys.readouterr().err


def test_what_is_no_prepared_set_is_refused_with_the_way_to_make_one(tmp_path, capsys):
    (tmp_path / "log.csv").write_text("a,b\n")
    assert main([str(tmp_path / "log.csv")]) == 2
    assert "dlrmjit prepare" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "model"),
    [
        (["--qr-flag", "--qr-threshold=5"], "wide-deep, from a logistic regression:"),
        (["--weighted-pooling=learned"], "wide-deep, from a logistic regression:"),
        (["--pooling=mean"], "wide-deep:"),
        (["--model=deepfm", "--table-dims=4-8"], "deepfm:"),
        (["--model=lr"], "lr, from a logistic regression:"),
    ],
    ids=repr,
)
def test_a_start_is_solved_where_the_tables_have_one(prepared, words, model, capsys):
    assert main([prepared, "--nepochs=1", "--backend=reference", *words]) == 0
    assert f"Model {model} tables of width 8" in capsys.readouterr().out


def test_a_start_that_the_tables_do_not_have_is_refused(prepared, capsys):
    words = ["--nepochs=1", "--model=deepfm", "--qr-flag", "--qr-threshold=5", "--linear-start"]
    assert main([prepared, *words]) == 2
    assert "tables of one kind, summed" in capsys.readouterr().err


@needs_mpi
def test_a_run_starts_from_the_same_solution_on_any_number_of_ranks(prepared, tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    assert main([prepared, "--nepochs=1", f"--log-json={log}"]) == 0
    assert "from a factorisation machine" in capsys.readouterr().out
    start, *_ = tests = _tests_of(log)
    assert start["step"] == 0
    assert start["auc"] > 0.75
    for ranks in (2, 3):
        words = ["-m", "dlrmjit.train", prepared, "--nepochs=1", f"--log-json={log}"]
        run_ranks(ranks, *words)
        for ours, theirs in zip(tests, _tests_of(log), strict=True):
            np.testing.assert_allclose(theirs["logloss"], ours["logloss"], atol=1e-4)


def _tests_of(log):
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return [event for event in events if event["event"] == "eval"]


def test_a_dead_layer_and_constant_scores_are_noted(prepared, capsys):
    words = ["--model=dlrm", "--optimizer=sgd", "--learning-rate=1e4", "--nepochs=1"]
    code = main([prepared, *words, "--early-stopping=0", "--dropout=0"])
    err = capsys.readouterr().err
    assert code == 1 or "note: all outputs of layer" in err or "scores are the same" in err


def test_a_column_of_large_numbers_is_named_before_training(tmp_path, capsys):
    (tmp_path / "log.csv").write_text("age,user,clicked\n" + "41,a,0\n38,b,1\n" * 60)
    (tmp_path / "log.toml").write_text(
        'label = "clicked"\ndense = ["age"]\ncategorical = ["user"]\n'
    )
    schema, out = str(tmp_path / "log.toml"), str(tmp_path / "set")
    assert prepare.main([str(tmp_path / "log.csv"), "--schema", schema, "--out", out]) == 0
    assert main([out, "--nepochs=1"]) == 0
    assert "values of the dense column age have mean 39.5" in capsys.readouterr().err
