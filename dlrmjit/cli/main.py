"""The program: options in, exit code out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dlrmjit import knobs
from dlrmjit.cli.exits import guarded
from dlrmjit.cli.options import Options, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (by default the program's own); the exit code."""
    return guarded(lambda: _run(parse(sys.argv[1:] if argv is None else argv)))


def _run(options: Options) -> None:
    """Load what computes, after the size of the thread pool is settled, and run."""
    for note in options.notes:
        print(f"dlrmjit: note: {note}", file=sys.stderr)
    if options.threads:
        knobs.reserve_threads(options.threads)
    from dlrmjit.cli.run import run

    run(options)
