"""``plan --advise``: a table, a command line, and a plan that training accepts."""

import json
import shlex

import pytest

from dlrmjit.cli.options.parse import parse
from dlrmjit.plan import main

ADVISE = ["--config=mlperf", "--max-ind-range=10000", "--advise", "--cpus=4"]
ADVISE.append("--ranks=16")


def test_the_last_line_is_a_command_line_of_train(capsys, tmp_path):
    path = tmp_path / "plan.json"
    words = ["--explain", "--noise=1000", f"--json={path}", "--hosts=4", "--network=3-12.5"]
    assert main([*ADVISE, *words]) == 0
    output = capsys.readouterr().out
    command = shlex.split(output.strip().splitlines()[-1])
    options = parse(command[command.index("dlrmjit.train") + 1 :])
    assert options.plan == str(path)
    assert json.loads(path.read_text())["ranks"] == int(command[command.index("-n") + 1])
    assert "Lemma 1" in output
    assert "Lemma 2" in output
    assert "Noise" in output
    assert "rough" in output or "assumed" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--samples=5"], "together"),
        (["--hosts=2"], "--network"),
        (["--network=3"], "two numbers"),
        (["--batch-size=8", "--noise=3"], "leave out --batch-size"),
        (["--measure"], "leave out --cpus"),
        (["--memory=0.001"], "no setup fits"),
        (["--samples=1000000000000", "--hours=0.001"], "reaches the target"),
    ],
)
def test_contradictions_and_what_cannot_be_are_refused(words, message, capsys):
    assert main([*ADVISE, *words]) == 2
    assert message in capsys.readouterr().err


def test_flags_of_advice_need_advice(capsys):
    assert main(["--config=kaggle", "--ranks=2", "--noise=5"]) == 2
    assert "--noise has no effect here: it needs --advise; leave it out" in capsys.readouterr().err
