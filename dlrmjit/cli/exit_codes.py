"""The exit codes of every command, and the one sentence that reports an error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from dlrmjit.errors import DlrmjitError

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def exit_code_of(action: Callable[[], None]) -> int:
    """Run ``action`` and return the exit code of the process.

    The code is 0 when done, 2 for wrong usage or input, with one sentence on the standard error,
    130 when interrupted, and 1 when the reader of the output has closed it. Other errors are
    bugs and are raised.
    """
    try:
        _run_and_flush(action)
        return DONE
    except DlrmjitError as error:
        print(f"dlrmjit: error: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("dlrmjit: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return FAILED


def _run_and_flush(action: Callable[[], None]) -> None:
    """Run ``action``, and flush its output here, where a closed reader is no traceback."""
    try:
        action()
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _silence_stdout() -> None:
    """Redirect the closed output to the null device, to which Python's flush at exit can write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
