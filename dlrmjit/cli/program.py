"""The program ``dlrmjit``: finds the command that the first word names, and hands it the others.

Light on purpose: a command is imported when it is started, so that help and mistakes are answered
at once.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import cast

from dlrmjit.cli.exit_codes import INTERRUPTED, exit_code_of
from dlrmjit.errors import ConfigError
from dlrmjit.launchers import launched_rank
from dlrmjit.version import __version__

Main = Callable[..., int]
"""Runs a command line, by default the program's own, and returns the exit code."""

COMMANDS = {  # name: the module whose main(argv) runs it, and what it does
    "train": ("dlrmjit.cli.commands.train", "train, test and save a model"),
    "prepare": ("dlrmjit.cli.commands.prepare", "turn raw text or Parquet into a prepared set"),
    "evaluate": ("dlrmjit.cli.commands.evaluate", "print the metrics of a saved model on data"),
    "predict": ("dlrmjit.cli.commands.predict", "write the probability of a click for every row"),
    "export-embeddings": ("dlrmjit.cli.commands.export_embeddings", "write tables as array files"),
    "convert": ("dlrmjit.cli.commands.convert", "turn data of one format into another"),
    "export": ("dlrmjit.cli.commands.export", "write a model for another program, as ONNX"),
    "embed": ("dlrmjit.cli.images.embed", "write the vectors of images by a ResNet"),
    "serve": ("dlrmjit.cli.commands.serve", "answer queries over HTTP within a budget"),
    "plan": ("dlrmjit.cli.commands.plan", "propose how to shard tables over many ranks"),
    "warm": ("dlrmjit.cli.commands.warm", "compile the kernels of a training before it starts"),
    "tune": ("dlrmjit.cli.commands.tune", "measure the fastest matrix blockings of this machine"),
    "doctor": ("dlrmjit.cli.commands.doctor", "examine whether this machine is set up well"),
    "report": ("dlrmjit.cli.insight.report", "write a page that shows the logs of runs"),
    "plot": ("dlrmjit.cli.insight.plot", "draw the logs of runs as SVG, PDF or PNG"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0].replace("_", "-") if words else "--help"
    if name in COMMANDS:
        return command(name)(words[1:])
    return exit_code_of(lambda: _answer(name))


def command(name: str) -> Main:
    """Return the function that imports a command, which may be interrupted, and runs it."""

    def run(argv: Sequence[str] | None = None) -> int:
        arguments = sys.argv[1:] if argv is None else argv
        mains: list[Main] = []
        return exit_code_of(lambda: mains.append(_load(name))) or mains[0](arguments)

    return run


def _load(name: str) -> Main:
    try:
        return cast(Main, importlib.import_module(COMMANDS[name][0]).main)
    except KeyboardInterrupt:
        if launched_rank() > 0:
            raise SystemExit(INTERRUPTED) from None  # the first rank says so
        raise


def _answer(word: str) -> None:
    """Print, on the first of several ranks, what was asked for instead of a command."""
    answers = {"-h": _help, "--help": _help, "help": _help, "--version": _version}
    if word not in answers:
        raise ConfigError(_unknown_message(word))
    if launched_rank() == 0:
        print(answers[word]())


def _version() -> str:
    return f"dlrmjit {__version__}"


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = (f"  {name:{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items())
    return "\n".join(
        [
            "usage: dlrmjit COMMAND [options]   (or: python -m dlrmjit COMMAND [options])",
            "",
            "Trains deep learning recommendation models on CPUs.",
            "",
            *commands,
            "",
            "dlrmjit COMMAND --help lists the options of a command; dlrmjit train without options",
            "trains a small model on generated data.",
        ]
    )


def _unknown_message(word: str) -> str:
    starting = [name for name in COMMANDS if word and name.startswith(word)]
    close = starting or difflib.get_close_matches(word, COMMANDS, n=1)
    if close:
        return f"unknown command {word!r}; did you mean {close[0]}?"
    if word.startswith("-"):
        return f"options follow a command, and {word!r} is none; see dlrmjit --help"
    return f"unknown command {word!r}; the commands are {', '.join(COMMANDS)}"
