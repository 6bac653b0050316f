"""Options that have no effect with the others are refused, or noted if the reference has them."""

import pytest

from dlrmjit.cli.build.configs import is_testing
from dlrmjit.cli.options.command_flags import CONVERT, EVALUATE, PLAN, PREDICT, TUNE
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.cli.options.conditions import _CONDITIONS, _OF_RANKS, _OF_TESTS, check_effects
from dlrmjit.cli.options.document import COMMANDS
from dlrmjit.cli.options.insight_flags import DOCTOR
from dlrmjit.cli.options.parse import TRAIN, parse
from dlrmjit.cli.options.prepare_flags import PREPARE
from dlrmjit.errors import ConfigError


def notes_on(words, ranks=1):
    options = parse(words)
    return check_effects(options, ranks, is_testing(options))


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        (["--optimizer=adam", "--optimizer-l1-strength=1"], "--optimizer=ftrl"),
        (["--optimizer=adam", "--optimizer-beta=1"], "--optimizer=ftrl"),
        (["--optimizer=adam", "--momentum=0.9"], "--optimizer=sgd"),
        (["--optimizer-eps=0.1"], "--optimizer=adagrad or rwsadagrad or adam or adamw"),
        (["--plateau-patience=3"], "--reduce-on-plateau"),
        (["--trace-steps=1-2"], "--trace"),
        (["--monitor=auc", "--mini-batch-size=2"], "--test-freq"),
        (["--data-generation=random", "--train-fraction=0.5"], "--data-generation=dataset"),
        (["--load-model=x", "--sparse-init-scale=2"], "--load-model"),
        (["--load-model=x", "--inference-only", "--trace=t"], "--inference-only"),
        (["--load-model=x", "--inference-only", "--clip-norm=1"], "--inference-only"),
        (["--load-model=x", "--inference-only", "--table-learning-rate=0=1"], "--inference-only"),
    ],
)
def test_our_own_options_are_refused_by_name(words, needs):
    with pytest.raises(ConfigError) as caught:
        notes_on(words)
    text = str(caught.value)
    assert text.split()[0] in [word.split("=")[0] for word in words]
    assert "has no effect here: it needs" in text
    assert needs in text


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        (["--qr-collisions=3"], "--qr-flag"),
        (["--md-threshold=3"], "--md-flag"),
        (["--loss-weights=1-2"], "--loss-function=wbce"),
        (["--rand-data-sigma=2"], "--rand-data-dist=gaussian"),
        (["--data-size=9", "--num-batches=2"], "--num-batches=0"),
        (["--mlperf-auc-threshold=0.7", "--mini-batch-size=2"], "--test-freq"),
    ],
)
def test_the_references_options_are_noted(words, needs):
    (note,) = notes_on(words)
    assert note.startswith(words[0].split("=")[0])
    assert needs in note


@pytest.mark.parametrize(
    "words",
    [
        ["--sparse-optimizer=ftrl", "--optimizer-l1-strength=1"],
        ["--optimizer=adamw", "--optimizer-eps=1e-7", "--weight-decay=0.1"],
        ["--qr-flag", "--qr-collisions=3"],
        ["--monitor=auc", "--test-freq=3"],
        ["--reduce-on-plateau=0.1", "--plateau-patience=3", "--test-freq=2"],
        ["--config=kaggle", "--max-ind-range=100"],
    ],
)
def test_options_with_an_effect_need_no_word(words):
    assert notes_on(words) == []


def test_options_of_ranks_are_noted_in_one_process_only():
    words = ["--plan=rows", "--exchange=alltoall"]
    assert [note.split()[0] for note in notes_on(words)] == ["--plan", "--exchange"]
    assert notes_on(words, ranks=2) == []


def test_all_names_are_those_of_options():
    known = {flag.dest for flag in TRAIN.flags()}
    named = {name for condition in _CONDITIONS for name in condition.names}
    assert named | {*_OF_RANKS, *_OF_TESTS} <= known


@pytest.mark.parametrize(
    ("command", "words", "option", "needs"),
    [
        (PREPARE, ["a", "--split=none", "--days=3"], "--days", "--split=days and a single input"),
        (PREPARE, ["a", "b", "--days=3"], "--days", "--split=days and a single input"),
        (PREPARE, ["a", "--schema=s", "--dense=float32"], "--dense", "without --schema"),
        (PREPARE, ["--verify", "--seed=3"], "--seed", "without --verify"),
        (PREPARE, ["a", "--verify"], "INPUT", "without --verify"),
        (PREDICT, ["m", "a.csv", "--split=train"], "--split", "a prepared set"),
        (PREDICT, ["m", "a.bin", "--split=train"], "--split", "a prepared set"),
        (PREDICT, ["m", "a.bin", "--vocabulary=s"], "--vocabulary", "text or Parquet"),
        (EVALUATE, ["m", "a.csv", "--split=train"], "--split", "a prepared set"),
        (EVALUATE, ["m", ".", "--vocabulary=s"], "--vocabulary", "text or Parquet"),
        (CONVERT, ["a.bin", "b", "--to=set", "--data-set=terabyte"], "--data-set", "files of days"),
        (CONVERT, ["a.txt", "b", "--to=torchrec", "--data-set=kaggle"], "--data-set", "of days"),
        (PLAN, ["--config=small", "--ranks=2", "--hours=2"], "--hours", "--advise"),
        (PLAN, ["--config=small", "--ranks=2", "--advise", "--kind=rows"], "--kind", "--advise"),
        (TUNE, ["--list", "--seconds=3"], "--seconds", "without --list or --clear"),
        (TUNE, ["--clear", "--config=kaggle"], "--config", "without --list or --clear"),
        (DOCTOR, ["--quick", "--ranks=3"], "--ranks", "without --quick"),
    ],
)
def test_options_of_commands_that_have_no_effect_are_refused_by_name(
    command, words, option, needs, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "a.bin"):
        (tmp_path / name).touch()
    out = ["--out=o"] if command in (PREPARE, PREDICT) else []
    with pytest.raises(ConfigError) as caught:
        parse_command(command, [*words, *out])
    text = str(caught.value)
    assert text.startswith(f"{option} has no effect here: it needs ")
    assert needs in text


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (PREPARE, ["a", "--days=3", "--dense=float32", "--out=o"]),
        (PREPARE, ["--verify", "--out=o"]),
        (PREDICT, ["m", "a.csv", "--vocabulary=s", "--out=o"]),
        (EVALUATE, ["m", ".", "--split=train"]),
        (CONVERT, ["a", "b", "--to=bin", "--data-set=terabyte"]),
        (CONVERT, [".", "b", "--to=days", "--data-set=terabyte"]),
        (PLAN, ["--config=small", "--ranks=2", "--kind=rows"]),
        (PLAN, ["--config=small", "--ranks=2", "--advise", "--samples=2", "--hours=1"]),
        (TUNE, ["--dry-run", "--seconds=3"]),
        (DOCTOR, ["--ranks=3"]),
    ],
)
def test_options_of_commands_with_an_effect_are_accepted(command, words):
    parse_command(command, words)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_conditions_name_options_of_their_command(command):
    known = {flag.dest for flag in command.flags()}
    assert {name for condition in command.conditions for name in condition.names} <= known
