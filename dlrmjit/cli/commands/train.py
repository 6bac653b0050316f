"""The command ``train``: parse the options, then load what computes, and run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout

from dlrmjit import knobs
from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.parse import Options, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""

    def action() -> None:
        _run(parse(sys.argv[1:] if argv is None else argv))

    if knobs.launched_rank() == 0:
        return exit_code_of(action)
    with open(os.devnull, "w") as null, redirect_stderr(null), redirect_stdout(null):
        return exit_code_of(action)


def _run(options: Options) -> None:
    """Set the size of the thread pool, load the modules that compute, and run."""
    for note in options.notes:
        print(f"dlrmjit: note: {note}", file=sys.stderr)
    if options.threads:
        knobs.reserve_threads(options.threads)
    from dlrmjit.cli.build.distributed import abort_on_error, bind_to_cpus
    from dlrmjit.cli.commands.train_run import run
    from dlrmjit.parallel.comm import world

    comm = world()
    abort_on_error(lambda: run(options, bind_to_cpus(comm, options)), comm)
