"""The program: options in, exit code out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout

from dlrmjit import knobs
from dlrmjit.cli.exit_codes import guarded
from dlrmjit.cli.options.parse import Options, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (by default the program's own); the exit code."""

    def action() -> None:
        _run(parse(sys.argv[1:] if argv is None else argv))

    if knobs.launched_rank() == 0:
        return guarded(action)
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
        return guarded(action)


def _run(options: Options) -> None:
    """Load what computes, after the size of the thread pool is settled, and run."""
    for note in options.notes:
        print(f"dlrmjit: note: {note}", file=sys.stderr)
    if options.threads:
        knobs.reserve_threads(options.threads)
    from dlrmjit.cli.build.distributed import guarded_rank, settle
    from dlrmjit.cli.commands.train_run import run
    from dlrmjit.parallel.comm import world

    comm = world()
    guarded_rank(lambda: run(options, settle(comm, options)), comm)
