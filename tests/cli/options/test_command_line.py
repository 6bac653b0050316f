"""Every command reads its line by the same rules, from its table of flags."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dlrmjit.cli.options.command_flags import CONVERT, EVALUATE, PLAN, PREDICT, TUNE
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.cli.options.document import COMMANDS
from dlrmjit.cli.options.flag import Command
from dlrmjit.cli.options.prepare_flags import PREPARE
from dlrmjit.errors import ConfigError

ROOT = Path(__file__).parents[3]
NAMES = [command.name for command in COMMANDS]


def test_values_are_converted_and_defaults_filled_in() -> None:
    options = parse_command(PLAN, ["--config=small", "--ranks", "4", "--memory=1.5"])
    assert (options.config, options.ranks, options.memory) == ("small", 4, 1.5)
    assert (options.kind, options.max_ind_range, options.json) == ("auto", 0, None)


def test_operands_may_stand_between_options() -> None:
    options = parse_command(EVALUATE, ["model", "--split", "train", "data", "--json"])
    assert (options.model, options.data) == (Path("model"), Path("data"))
    assert (options.split, options.json) == ("train", True)


def test_an_operand_may_take_many_words() -> None:
    options = parse_command(PREPARE, ["a", "--out", "set", "b"])
    assert options.input == (Path("a"), Path("b"))


def test_words_after_two_dashes_are_operands() -> None:
    options = parse_command(PREPARE, ["--out=set", "--", "-a", "b"])
    assert options.input == (Path("-a"), Path("b"))


def test_an_empty_word_is_no_operand() -> None:
    with pytest.raises(ConfigError, match="an argument is empty"):
        parse_command(EVALUATE, ["model", ""])


WRONG: list[tuple[Command, str, str]] = [
    (PLAN, "--config=small", "--ranks N is required: number of ranks"),
    (PLAN, "--config=huge --ranks=2", "--config must be one of small, large"),
    (PLAN, "--config=small --ranks=0", "--ranks must be between 1 and 65536, not 0"),
    (PLAN, "--config=small --ranks=--", "--ranks needs a value"),
    (PLAN, "--config=small --ranks=2 --memory=0", "--memory must be positive, not 0.0"),
    (PLAN, "--config=small --ranks=2 --memory=inf", "--memory must be finite, not inf"),
    (PLAN, "--conf=small --ranks=2", "unknown option '--conf=small'; did you mean --config?"),
    (PLAN, "--config=small --ranks=2 --kind=diagonal", "--kind must be one of auto, whole"),
    (TUNE, "--seconds=-1", "--seconds must be positive, not -1.0"),
    (TUNE, "--threads=0", "--threads must be at least 1"),
    (EVALUATE, "model", "DATA is required: text or Parquet"),
    (EVALUATE, "model data more", "unknown option 'more'"),
    (EVALUATE, "model data --batch-size=0", "--batch-size must be at least 1"),
    (EVALUATE, "model data --split=dev", "--split must be one of train, test, validation"),
    (PREDICT, "model data", "--out FILE is required"),
    (CONVERT, "source out --to=csv", "--to must be one of set, bin, days, torchrec, multi-hot"),
    (PREPARE, "text", "--out DIR is required"),
    (PREPARE, "text --out=set --sub-sample-rate=nan", "between 0 and 1, not nan"),
    (PREPARE, "text --out=set --workers=two", "invalid int value: 'two'"),
]


@pytest.mark.parametrize(
    ("command", "words", "said"), WRONG, ids=[f"{c.name} {w}" for c, w, _ in WRONG]
)
def test_mistakes_are_refused_in_one_sentence(command: Command, words: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_command(command, words.split())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_help_names_every_flag(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_command(command, ["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {command.program}")
    assert all(flag.label in text for flag in command.flags())


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_every_command_tells_its_version(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_command(command, ["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("dlrmjit ")


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_every_command_can_be_started_as_its_help_says(command: Command) -> None:
    words = [sys.executable, "-m", *command.program.split(), "--nonsense"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr == "dlrmjit: error: unknown option '--nonsense'; see --help for all options\n"
    )
