"""Says how to resume, also after a rank was killed and its launcher has killed all others.

No rank can say so then. A shell outside their process group waits for the first rank to end, and
knows from a word on its input whether that was the end of the run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_SHELL = "/bin/sh"
_SCRIPT = 'read -r end && exit; if [ -e "$1" ]; then echo "$2" >&2; else echo "$3" >&2; fi'
_ENDED = "dlrmjit: note: the run ended early"


@contextmanager
def resume_note(path: str) -> Iterator[None]:
    """Print how to resume, if this process or its job ends before the context does.

    ``path`` is where checkpoints are saved, or empty.
    """
    shell = _start(path)
    yield
    if shell is not None and shell.stdin is not None:
        with suppress(OSError):
            shell.stdin.write(b"end\n")
            shell.stdin.close()
        shell.wait()


def _start(path: str) -> subprocess.Popen[bytes] | None:
    if not os.access(_SHELL, os.X_OK) or sys.__stderr__ is None:
        return None
    absolute = os.path.abspath(path) if path else ""
    saved = f"{_ENDED}; --resume={path} continues it from the last checkpoint"
    unsaved = f"{_ENDED}, before a checkpoint was saved" + (f" at {path}" if path else "")
    unsaved += "" if path else "; --save-model or --resume names where to save them"
    with suppress(OSError):
        return subprocess.Popen(
            [_SHELL, "-c", _SCRIPT, "dlrmjit", absolute, saved, unsaved],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    return None
