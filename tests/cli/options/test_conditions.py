"""Options that have no effect with the others are refused, or noted if the reference has them."""

import pytest

from dlrmjit.cli.build.configs import is_testing
from dlrmjit.cli.options.conditions import _CONDITIONS, _OF_RANKS, _OF_TESTS, check_effects
from dlrmjit.cli.options.parse import TRAIN, parse
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
