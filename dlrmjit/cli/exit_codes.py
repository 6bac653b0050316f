"""How every command ends: an exit code, and one sentence where something is wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from dlrmjit.errors import DlrmjitError

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def exit_code_of(action: Callable[[], None]) -> int:
    """Run ``action``; the exit code.

    0 when done, 2 for wrong usage or input with one sentence on the standard error, 130 when
    interrupted, 1 when whoever reads the output went away. Other errors are bugs and are raised.
    """
    try:
        action()
        sys.stdout.flush()
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


def _silence_stdout() -> None:
    """Let Python's flush at exit find somewhere to write to."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
