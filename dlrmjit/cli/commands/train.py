"""The command ``train``: parse the options, then load what computes, and run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlrmjit import knobs, launchers
from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.parse import Options, parse
from dlrmjit.cli.ranks import run_on_ranks
from dlrmjit.cli.report.compilation import OF_TRAINING

if TYPE_CHECKING:
    from dlrmjit.parallel.comm import Comm


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    launches: list[launchers.Launch | None] = []
    code = exit_code_of(lambda: launches.append(launchers.launched()))
    if not launches:
        launchers.abort(code)
        return code
    if launches[0] is None:
        codes: list[int] = []
        return exit_code_of(lambda: codes.append(_run_alone(arguments)), OF_TRAINING) or codes[0]
    return run_on_ranks(lambda: _parse(arguments), _run, launches[0])


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


def _run(options: Options, comm: Comm) -> int:
    """Load the modules that compute, and run; return the exit code."""
    for note in options.notes:
        print(f"dlrmjit: note: {note}", file=sys.stderr)
    from dlrmjit.cli.build.distributed import bind_to_cpus
    from dlrmjit.cli.commands.train_run import run

    return run(options, bind_to_cpus(comm, options))
