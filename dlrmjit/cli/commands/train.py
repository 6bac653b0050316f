"""The command ``train``: parse the options, then load what computes, and run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlrmjit import knobs
from dlrmjit.cli.options.parse import Options, parse
from dlrmjit.cli.ranks import Job, run_command
from dlrmjit.cli.report.compilation import OF_TRAINING

if TYPE_CHECKING:
    from dlrmjit.cli.build.facts import Facts
    from dlrmjit.parallel.comm import Comm


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    job = Job(lambda: _parse(arguments), _run, _facts, OF_TRAINING)
    return run_command(job, lambda: _run_alone(arguments))


def _run_alone(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    from dlrmjit.parallel.comm import SelfComm

    return _run(options, SelfComm())


def _parse(arguments: Sequence[str]) -> Options:
    """Return the options; sizes the thread pool, which must be done before Numba loads."""
    options = parse(arguments)
    if options.threads:
        knobs.reserve_threads(options.threads)
    return options


def _facts(options: Options) -> Facts:
    from dlrmjit.cli.build import start_facts

    return start_facts.start_facts(options)


def _run(options: Options, comm: Comm) -> int:
    """Load the modules that compute, and run; return the exit code."""
    for note in options.notes:
        print(f"dlrmjit: note: {note}", file=sys.stderr)
    from dlrmjit.cli.build.distributed import bind_to_cpus
    from dlrmjit.cli.commands.train_run import run

    return run(options, bind_to_cpus(comm, options))
