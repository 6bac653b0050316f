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

from dlrmjit.parallel.comm import Comm, note_on_abort

_SHELL = "/bin/sh"
_SCRIPT = 'read -r end || printf "%s\\n" "$1" >&2'
_ENDED = "dlrmjit: note: the run ended early"


@contextmanager
def resume_note(path: str, comm: Comm) -> Iterator[None]:
    """Print how to resume, if a rank ends before the context does.

    ``path`` is where checkpoints are saved, or empty. A rank that ends the job prints it itself.
    """
    saved = f"{_ENDED}; --resume={path} continues it from its last checkpoint, if one was saved"
    unsaved = f"{_ENDED}; --save-model or --resume names where to save checkpoints"
    note = saved if path else unsaved
    shell = _start(note) if comm.rank == 0 and comm.size > 1 else None
    with note_on_abort(note):
        yield
    if shell is not None and shell.stdin is not None:
        with suppress(OSError):
            shell.stdin.write(b"end\n")
            shell.stdin.close()
        shell.wait()


def _start(note: str) -> subprocess.Popen[bytes] | None:
    if not os.access(_SHELL, os.X_OK) or sys.__stderr__ is None:
        return None
    with suppress(OSError):
        return subprocess.Popen(
            [_SHELL, "-c", _SCRIPT, "dlrmjit", note],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    return None
