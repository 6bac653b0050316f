"""The command ``plot``: figures of the logs of runs as a picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.cli.options.insight_flags import PLOT
from dlrmjit.errors import ConfigError
from dlrmjit.files import check_file_replaceable, replaced_file, try_destination

_MARK = b"dlrmjit plot"
_SEARCHED_BYTES = 4096  # at both ends of a file


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return exit_code_of(lambda: _run(parse_command(PLOT, arguments)))


def _run(options: argparse.Namespace) -> None:
    from dlrmjit.report.picture import FORMATS, picture
    from dlrmjit.report.run_log import distinct_names, read_log

    kind = options.out.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        endings = ", ".join(f".{ending}" for ending in FORMATS)
        raise ConfigError(f"--out: {options.out} should end in one of {endings}")
    check_file_replaceable(options.out, _is_picture)
    try_destination(options.out)
    names = distinct_names(options.logs)
    runs = [read_log(path, name) for path, name in zip(options.logs, names, strict=True)]
    drawn = picture(runs, kind, options.figures or None, options.title)
    try:
        with replaced_file(options.out, _is_picture) as file:
            file.write(drawn)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"--out: {options.out} cannot be written: {reason}") from None
    print(f"wrote {options.out}")


def _is_picture(path: Path) -> bool:
    """Return whether a file is a picture that this command wrote."""
    try:
        with open(path, "rb") as file:
            start = file.read(_SEARCHED_BYTES)
            file.seek(max(0, path.stat().st_size - _SEARCHED_BYTES))
            return _MARK in start + file.read()
    except OSError:
        return False
