"""The program: options in, exit code out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from dlrmjit import knobs
from dlrmjit.cli.options import Options, parse
from dlrmjit.errors import DlrmjitError

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (by default the program's own); the exit code.

    0 when done, 2 for wrong usage or input with one sentence on the standard error, 130 when
    interrupted, 1 when whoever reads the output went away. Other errors are bugs and are raised.
    """
    try:
        return _run(parse(sys.argv[1:] if argv is None else argv))
    except DlrmjitError as error:
        print(f"dlrmjit: error: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("dlrmjit: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return FAILED


def _run(options: Options) -> int:
    """Load what computes, after the size of the thread pool is settled, and run."""
    for note in options.notes:
        print(f"dlrmjit: note: {note}", file=sys.stderr)
    if options.threads:
        knobs.reserve_threads(options.threads)
    from dlrmjit.cli.run import run

    run(options)
    sys.stdout.flush()
    return DONE


def _silence_stdout() -> None:
    """Let Python's flush at exit find somewhere to write to."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
