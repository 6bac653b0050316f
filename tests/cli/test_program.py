"""The program ``dlrmjit``: every command by name, help, and what is no command."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from dlrmjit.cli import program
from dlrmjit.cli.options import document
from dlrmjit.cli.program import COMMANDS, main
from dlrmjit.version import __version__

ROOT = Path(__file__).resolve().parents[2]


def test_every_documented_command_is_a_command_of_the_program():
    documented = {command.name.replace("_", "-") for command in document.COMMANDS}
    assert documented <= COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_of_the_program_is_the_program_of_its_module(name, capsys):
    module = importlib.import_module(COMMANDS[name][0])
    with pytest.raises(SystemExit):
        module.main(["--help"])
    expected = capsys.readouterr().out
    for words in ([name, "--help"], [name.replace("-", "_"), "--help"]):
        with pytest.raises(SystemExit):
            main(words)
        assert capsys.readouterr().out == expected


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_all_commands(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dlrmjit {__version__}\n"


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("trian", "did you mean train?"),
        ("exprt", "did you mean export?"),
        ("zzz", "the commands are train, prepare"),
        ("", "the commands are train, prepare"),
        ("--config", "options follow a command"),
    ],
)
def test_an_unknown_command_is_refused_with_a_suggestion(word, hint, capsys):
    assert main([word, "--x"]) == 2
    assert hint in capsys.readouterr().err


def test_wrong_input_of_a_command_is_reported_as_by_its_module(capsys):
    assert main(["train", "--no-such-option"]) == 2
    assert "unknown option" in capsys.readouterr().err


@pytest.mark.parametrize("rank", [0, 1])
def test_an_interrupt_while_a_command_is_imported_is_one_line_of_the_first_rank(
    rank, capsys, monkeypatch, tmp_path
):
    (tmp_path / "imported_for_long.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(program.COMMANDS, "train", ("imported_for_long", ""))
    monkeypatch.setattr(program, "launched_rank", lambda: rank)
    with pytest.raises(SystemExit) as ended:
        sys.exit(program.command("train")([]))
    assert ended.value.code == 130
    assert capsys.readouterr().err == ("" if rank else "dlrmjit: interrupted\n")


def test_the_module_runs_the_program():
    done = subprocess.run(
        [sys.executable, "-m", "dlrmjit", "pln"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "dlrmjit: error: unknown command 'pln'; did you mean plan?\n"


def test_help_loads_neither_numpy_nor_numba():
    code = (
        "import sys; from dlrmjit.cli.program import main; main([]);"
        "sys.exit(bool({'numpy', 'numba'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_console_script_is_the_program():
    text = (ROOT / "pyproject.toml").read_text()
    assert '[project.scripts]\ndlrmjit = "dlrmjit.cli.program:main"\n' in text
