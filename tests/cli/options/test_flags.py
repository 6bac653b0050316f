"""The tables of flags against the reference program's, and against the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlrmjit.cli.options.document import BEGIN, COMMANDS, END, flag_tables
from dlrmjit.cli.options.flag import Command, Effect, Flag
from dlrmjit.cli.options.kinds import mlp_widths
from dlrmjit.cli.options.own_flags import INTEL, OWN
from dlrmjit.cli.options.parse import TRAIN, parse
from dlrmjit.cli.options.reference_flags import REFERENCE_GROUPS

REFERENCE = """
arch-sparse-feature-size int 2
arch-embedding-size dashed_ints 4-3-2
arch-mlp-bot dashed_ints 4-3-2
arch-mlp-top dashed_ints 4-2-1
arch-interaction-op str dot
arch-interaction-itself switch False
weighted-pooling str -
md-flag switch False
md-threshold int 200
md-temperature float 0.3
md-round-dims switch False
qr-flag switch False
qr-threshold int 200
qr-operation str mult
qr-collisions int 4
activation-function str relu
loss-function str mse
loss-weights dashed_floats 1.0-1.0
loss-threshold float 0.0
round-targets boolean False
data-size int 1
num-batches int 0
data-generation str random
rand-data-dist str uniform
rand-data-min float 0
rand-data-max float 1
rand-data-mu float -1
rand-data-sigma float 1
data-trace-file str ./input/dist_emb_j.log
data-set str kaggle
raw-data-file str -
processed-data-file str -
data-randomize str total
data-trace-enable-padding boolean False
max-ind-range int -1
data-sub-sample-rate float 0.0
num-indices-per-lookup int 10
num-indices-per-lookup-fixed boolean False
num-workers int 0
memory-map switch False
mini-batch-size int 1
nepochs int 1
learning-rate float 0.01
print-precision int 5
numpy-rand-seed int 123
sync-dense-params boolean True
optimizer str sgd
dataset-multiprocessing switch False
inference-only switch False
quantize-mlp-with-bit int 32
quantize-emb-with-bit int 32
save-onnx switch False
use-gpu switch False
local_rank int -1
dist-backend str -
print-freq int 1
test-freq int -1
test-mini-batch-size int -1
test-num-workers int -1
print-time switch False
print-wall-time switch False
debug-mode switch False
enable-profiling switch False
plot-compute-graph switch False
tensor-board-filename str run_kaggle_pt
save-model str -
load-model str -
mlperf-logging switch False
mlperf-acc-threshold float 0.0
mlperf-auc-threshold float 0.0
mlperf-bin-loader switch False
mlperf-bin-shuffle switch False
mlperf-grad-accum-iter int 1
lr-num-warmup-steps int 0
lr-decay-start-step int 0
lr-num-decay-steps int 0
"""

DOCUMENT = Path(__file__).parents[3] / "docs" / "cli.md"
ROWS = [line.split() for line in REFERENCE.strip().splitlines()]
FLAGS = {flag.name: flag for group in REFERENCE_GROUPS for flag in group.flags}


def test_every_option_of_the_reference_and_no_other() -> None:
    assert len(ROWS) == 76
    assert sorted(FLAGS) == sorted(name for name, _, _ in ROWS)


# Types that take all that the reference's does, read the same, and more.
EXTENDED = {"arch-mlp-bot": mlp_widths}


@pytest.mark.parametrize(("name", "kind", "default"), ROWS, ids=[row[0] for row in ROWS])
def test_type_and_default_are_the_references(name: str, kind: str, default: str) -> None:
    flag = FLAGS[name]
    if name in EXTENDED:
        assert flag.kind is EXTENDED[name]
    else:
        assert flag.kind.__name__ == kind
    if kind == "switch":
        assert flag.default is False
    elif default == "-":
        assert flag.default in (None, "")
    else:
        assert flag.kind(default) == flag.default


@pytest.mark.parametrize("flag", FLAGS.values(), ids=list(FLAGS))
def test_the_default_can_be_written_out(flag: Flag) -> None:
    if flag.default_text:
        options = parse([f"--{flag.name}={flag.default_text}"])
        assert getattr(options, flag.dest) == flag.default
        assert options.notes == ()


def test_abbreviations_that_the_reference_knows_are_not_ambiguous() -> None:
    reference = [name for name, _, _ in ROWS]
    ours = [*reference, *(flag.name for flag in OWN.flags)]
    for name in reference:
        for end in range(1, len(name)):
            prefix = name[:end]
            if sum(other.startswith(prefix) for other in reference) == 1:
                assert sum(other.startswith(prefix) for other in ours) == 1, prefix


@pytest.mark.parametrize("command", COMMANDS, ids=[command.name for command in COMMANDS])
def test_no_option_appears_twice(command: Command) -> None:
    names = [flag.dest for flag in command.flags()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("command", COMMANDS, ids=[command.name for command in COMMANDS])
def test_defaults_are_in_their_own_domains(command: Command) -> None:
    for flag in command.flags():
        if flag.domain and flag.default is not None:
            values = flag.default if isinstance(flag.default, tuple) else (flag.default,)
            assert all(value in flag.domain for value in values), flag.name


def test_every_option_without_effect_says_why() -> None:
    for flag in TRAIN.flags():
        assert flag.effect is Effect.WORKS or flag.note, flag.name
        assert not flag.supported or flag.note, flag.name


def test_intel_options_change_nothing() -> None:
    assert all(flag.effect is Effect.IGNORED for flag in INTEL.flags)


def test_documentation_holds_these_tables() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0].strip() == flag_tables().strip()
