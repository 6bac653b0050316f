"""The command ``report``: a page of the logs of one or several runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.cli.options.insight_flags import REPORT
from dlrmjit.errors import ConfigError
from dlrmjit.files import check_file_replaceable, replaced_file, try_destination

_MARK = b'<meta name="generator" content="dlrmjit report">'
_HEAD_BYTES = 4096


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return exit_code_of(lambda: _run(parse_command(REPORT, arguments)))


def _run(options: argparse.Namespace) -> None:
    from dlrmjit.report import page, read_log
    from dlrmjit.report.run_log import distinct_names

    check_file_replaceable(options.out, _is_report)
    try_destination(options.out)
    names = distinct_names(options.logs)
    runs = [read_log(path, name) for path, name in zip(options.logs, names, strict=True)]
    text = page(runs, options.title)
    try:
        with replaced_file(options.out, _is_report) as file:
            file.write(text.encode())
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"--out: {options.out} cannot be written: {reason}") from None
    print(f"wrote {options.out}")


def _is_report(path: Path) -> bool:
    """Return whether a file is a page that this command wrote."""
    try:
        with open(path, "rb") as file:
            return _MARK in file.read(_HEAD_BYTES)
    except OSError:
        return False
