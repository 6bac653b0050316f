"""The exit codes of every command, and the one sentence that reports an error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress

from dlrmjit.cli.report.compilation import compilation_notes
from dlrmjit.cli.streams import point_to_null, usable_streams
from dlrmjit.errors import DlrmjitError, TrainingError

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
SIGNALLED = 128
"""Plus the number of a signal: the code of a run that was saved and stopped because of it."""


def exit_code_of(action: Callable[[], None], kernels: int = 0) -> int:
    """Run ``action``, which needs about so many ``kernels``, and return the process's exit code.

    The code is 0 when done, 2 for wrong usage or input, with one sentence on the standard error,
    130 when interrupted, and 1 when a training cannot go on, when the reader of the output has
    closed it or the output could not be written. Streams that were closed from the start are no
    error. An error of the system that names a file counts as wrong input. Other errors are bugs
    and are raised.
    """
    with usable_streams() as (output, _), compilation_notes(kernels):
        code = _run(action)
        with suppress(BrokenPipeError):
            output.flush()
        return FAILED if output.has_failed and code == DONE else code


def _run(action: Callable[[], None]) -> int:
    try:
        _run_and_flush(action)
        return DONE
    except TrainingError as error:
        print(f"dlrmjit: error: {error}", file=sys.stderr)
        return FAILED
    except DlrmjitError as error:
        print(f"dlrmjit: error: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("dlrmjit: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        point_to_null(sys.stdout.fileno())
        return FAILED
    except OSError as error:
        if error.filename is None:
            raise
        print(f"dlrmjit: error: {error.filename!s:.200}: {error.strerror}", file=sys.stderr)
        return WRONG_INPUT


def _run_and_flush(action: Callable[[], None]) -> None:
    """Run ``action``, and flush its output here, where a closed reader is no traceback."""
    try:
        action()
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()
