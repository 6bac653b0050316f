"""Flags of the command ``export``."""

from __future__ import annotations

from pathlib import Path

from dlrmjit.cli.options.command_flags import INTERACTION
from dlrmjit.cli.options.domain import at_least
from dlrmjit.cli.options.flag import Command, Flag, FlagGroup

EXPORT = Command(
    "export",
    "Write a saved model for another program. An ONNX file has the inputs dense (N, D) and ids "
    "(N, S), encoded, and the output scores (N,).",
    (
        FlagGroup(
            "export",
            (
                Flag(
                    "model",
                    Path,
                    None,
                    "a saved model: a directory, or the reference's .pt",
                    is_operand=True,
                    is_required=True,
                ),
                Flag("to", str, "onnx", "the format", values=("onnx",)),
                Flag("out", Path, None, "the file to write", metavar="FILE", is_required=True),
                Flag(
                    "lookups",
                    int,
                    1,
                    "ids of a bag: with more than 1, ids are (N, S, P), and a negative one is no "
                    "lookup",
                    domain=at_least(1),
                ),
                *INTERACTION,
            ),
        ),
    ),
)
