"""The command ``doctor``: examine whether this machine is set up well."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from dlrmjit.cli.exit_codes import FAILED, exit_code_of
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.cli.options.insight_flags import DOCTOR

if TYPE_CHECKING:
    from dlrmjit.doctor import Finding

_COLOURS = {"OK": "32", "could be better": "33", "wrong": "31"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    wrong: list[bool] = []
    code = exit_code_of(lambda: wrong.append(_run(parse_command(DOCTOR, arguments))))
    return code or (FAILED if wrong[0] else code)


def _run(options: argparse.Namespace) -> bool:
    """Print the findings; return whether one of them is wrong."""
    from dlrmjit.doctor import Level, Scope, examine

    scope = Scope(options.data, options.mpiexec, options.ranks, not options.quick)
    findings = examine(scope=scope)
    found = list(findings) if options.json else _printed(findings)
    counts = {level.value: sum(f.level is level for f in found) for level in Level}
    if options.json:
        report = {"findings": [finding.to_dict() for finding in found], "counts": counts}
        print(json.dumps(report, indent=1))
    else:
        print("\n" + ", ".join(f"{count} {level}" for level, count in counts.items()))
    return counts[Level.WRONG.value] > 0


def _printed(findings: Iterable[Finding]) -> list[Finding]:
    found = []
    for topic, group in groupby(findings, lambda finding: finding.topic):
        print(topic, flush=True)
        for finding in group:
            found.append(finding)
            print(_line(finding), flush=True)
    return found


def _line(finding: Finding) -> str:
    level = finding.level.value
    word = f"{level:>17}"
    if sys.stdout.isatty():
        word = f"\033[{_COLOURS[level]}m{word}\033[0m"
    line = f"{word}  {finding.name}: {finding.found}"
    return f"{line}\n{'':19}-> {finding.advice}" if finding.advice else line
